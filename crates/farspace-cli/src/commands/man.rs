//! `farspace man`.

use anyhow::Context as _;

use crate::cli::ManArgs;
use crate::failure::Failure;
use crate::{manual, output};

/// Prints the main page, or writes all pages.
pub(crate) fn run(args: &ManArgs) -> anyhow::Result<()> {
    let pages = manual::pages().context("render the man pages")?;
    let Some(dir) = &args.dir else {
        let main = pages.first().map(|(_, page)| page.as_slice()).unwrap_or_default();
        return output::print_bytes(main);
    };
    for (name, page) in &pages {
        let path = dir.join(name);
        std::fs::write(&path, page).map_err(|e| Failure::output(format!("write {}", path.display()), &e))?;
    }
    output::print(&format!("{} pages written to {}\n", pages.len(), dir.display()))
}
