//! CRIU's page server, on either side of it.
//!
//! | module | what |
//! |---|---|
//! | `client` | sends pages to `criu page-server`, or to the following |
//! | `server` | takes the pages of `criu pre-dump --page-server` and `criu dump --page-server` |

mod client;
mod parent;
mod server;

pub use client::PageServer;
pub use server::PageServerReport;

#[cfg(test)]
mod tests;
