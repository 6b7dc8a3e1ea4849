//! `farspace receive`.

use std::time::Duration;

use farspace_dump::page_server::PageServerReport;
use farspace_dump::stream::{Address, ReceiveOptions, ReceiveReport};

use crate::cli::ReceiveArgs;
use crate::failure::eprint_line;
use crate::progress::Progress;
use crate::{engine, interrupt, units};

/// Receives one dump and reports.
pub(crate) fn run(args: &ReceiveArgs) -> anyhow::Result<()> {
    interrupt::watch()?;
    let options = ReceiveOptions { overwrite: args.force, timeout: args.timeout };
    let progress = Progress::new("receive");
    let listening = |address: &Address| eprint_line(&format!("listening on {address}"));
    let turned_away = |who: &[String]| who.iter().for_each(|who| eprint_line(&format!("turned away {who}")));
    let step = &mut |bytes| progress.update(bytes, bytes);
    let directories = (args.output.as_path(), args.parent.as_deref());
    if args.page_server {
        let report = engine::serve_pages(&args.listen, directories, &options, listening, step)?;
        drop(progress);
        turned_away(&report.turned_away);
        return args.report.format().print(&report, human_pages);
    }
    let report = engine::receive(&args.listen, directories, &options, listening, step)?;
    drop(progress);
    turned_away(&report.turned_away);
    args.report.format().print(&report, human)
}

fn human_pages(report: &PageServerReport) -> String {
    let total = Duration::from_nanos(report.total_ns);
    let bytes = report.pages * 4096;
    format!(
        "{}: {} of {} images from {} in {} ({:.2} GB/s), {} in the parent\n",
        report.path.display(),
        units::size(bytes),
        report.images.len(),
        report.sender,
        units::time(total),
        units::gb_per_s(bytes, total),
        units::size(report.pages_in_parent * 4096),
    )
}

fn human(report: &ReceiveReport) -> String {
    let total = Duration::from_nanos(report.total_ns);
    format!(
        "{}: {} in {} from {} in {} ({:.2} GB/s)\n",
        report.path.display(),
        units::size(report.bytes),
        match report.files.len() {
            1 => "1 file".to_owned(),
            nr => format!("{nr} files"),
        },
        report.sender,
        units::time(total),
        units::gb_per_s(report.bytes, total),
    )
}
