//! CRIU's page server, on either side of it.
//!
//! | module | what |
//! |---|---|
//! | `server` | takes the pages of `criu pre-dump --page-server` and `criu dump --page-server` |

mod parent;
mod server;

pub use server::PageServerReport;

#[cfg(test)]
mod tests;
