//! Man pages, made from the same clap definition as the help.

use std::io;

use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::exit::Exit;

/// The examples of one command: a line to type, and what it does.
pub(crate) fn examples(command: &str) -> &'static [(&'static str, &'static str)] {
    match command {
        "dump" => &[
            (
                "farspace dump 1234 -o service.core",
                "dump process 1234 as of one instant; open with gdb -c service.core",
            ),
            ("farspace dump 1234 -o all.core --all --verbose", "every mapping; say how memory was read"),
            (
                "farspace dump 1234 -o x.core --max-downtime 5 --on-miss fail",
                "none rather than one that stops it for more than 5 ms",
            ),
            ("farspace dump 1234 -o x.core --level frozen --json", "stop it for the copy; report as JSON"),
            ("farspace dump 1234 --tree -o cores", "with all its descendants: cores/core.PID"),
            ("farspace dump 1234 -o tcp:host:9000", "to another host, where farspace receive listens"),
        ],
        "receive" => &[
            (
                "farspace receive --listen tcp:192.0.2.7:9000 -o service.core",
                "take one dump that comes there",
            ),
            (
                "ssh -L 9000:/run/x.sock host farspace receive --listen unix:/run/x.sock -o service.core",
                "encrypted: then dump to tcp:localhost:9000 here",
            ),
            (
                "farspace receive --page-server --listen tcp:0.0.0.0:9000 -o images --parent images.1",
                "for criu pre-dump --page-server --address HOST --port 9000",
            ),
        ],
        "predump" => &[
            ("farspace predump 1234 -o one", "all memory of process 1234 and its descendants"),
            ("farspace predump 1234 -o two --parent one", "what has changed since"),
            (
                "criu dump -t 1234 -D three --prev-images-dir ../two --track-mem",
                "stop them for the rest; criu restore -D three brings them back",
            ),
            (
                "farspace predump 1234 -o chain --iterations 5 --interval 2",
                "chain/1 to chain/5, each with what has changed since the one before",
            ),
        ],
        "splice" => &[
            ("farspace splice 1234 0x7f0000001000+64K -o part.bin", "64 KiB into a file"),
            ("farspace splice 1234 7f00a000-7f00c000 -o - | sha256sum", "a line of /proc/PID/maps, hashed"),
            ("farspace splice 1234 0x7f0000000000+1G -o tcp:host:9000", "1 GiB to another host, uncopied"),
        ],
        "syscall" => &[
            (
                "farspace syscall 1234 mmap 0 64K 'PROT_READ|PROT_WRITE' 'MAP_PRIVATE|MAP_ANONYMOUS' -1",
                "map 64 KiB in process 1234; its address is printed",
            ),
            ("farspace syscall 1234 madvise 0x7f0000000000 1G MADV_PAGEOUT", "page out 1 GiB of it"),
            (
                "farspace syscall 1234 write fd:part.bin 0x7f0000001000 4096",
                "write a page of it to an existing file",
            ),
            ("farspace syscall 1234 mincore 0x7f0000000000 64K out:16 --json", "which pages are resident"),
        ],
        "doctor" => &[
            ("farspace doctor", "what works here, what that means, how to get the rest"),
            ("farspace doctor --json | jq '.capabilities[] | select(.found != \"yes\")'", "what is missing"),
        ],
        "demo" => &[
            ("farspace demo", "1 GiB, three rounds"),
            ("farspace demo --size 256M --json", "smaller, for a program to read"),
        ],
        "bench-splice" => &[
            ("farspace bench splice", "all rows as a table"),
            ("farspace bench splice --quick --json", "a fast trial run"),
        ],
        "bench-dump" => &[
            ("farspace bench dump", "all rows as a table"),
            (
                "farspace bench dump --only 1g-4k-10pc",
                "1 GiB of 4 KiB pages, 10 % of them written per second",
            ),
        ],
        "bench-services" => &[
            ("farspace bench services", "all rows as a table"),
            ("farspace bench services --only redis --plot redis.svg", "one service, and a drawing"),
        ],
        "bench-exec" => &[
            ("farspace bench exec", "all rows as a table, in nanoseconds per call"),
            ("farspace bench exec --quick --json", "a fast trial run"),
        ],
        "man" => &[
            ("farspace man | man -l -", "read it"),
            ("farspace man --dir /usr/local/share/man/man1", "install all pages"),
        ],
        "completions" => &[
            ("farspace completions bash > /etc/bash_completion.d/farspace", "for bash"),
            ("farspace completions zsh > ~/.zfunc/_farspace", "for zsh"),
        ],
        _ => &[],
    }
}

/// Every page as (file name, roff), the main one first.
pub(crate) fn pages() -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut root = crate::cli::command().disable_help_subcommand(true);
    root.build();
    let mut pages = Vec::new();
    collect(&root, "", &mut pages)?;
    Ok(pages)
}

fn collect(command: &clap::Command, parent: &str, pages: &mut Vec<(String, Vec<u8>)>) -> io::Result<()> {
    if command.is_hide_set() {
        return Ok(());
    }
    let name = if parent.is_empty() {
        command.get_name().to_owned()
    } else {
        format!("{parent}-{}", command.get_name())
    };
    let page = render(command, &name)?;
    pages.push((format!("{name}.1"), page));
    command.get_subcommands().try_for_each(|child| collect(child, &name, pages))
}

fn render(command: &clap::Command, name: &str) -> io::Result<Vec<u8>> {
    // clap takes 'static names unless its "string" feature is on; a page lives as long as the program anyway.
    let title: &'static str = Box::leak(name.to_owned().into_boxed_str());
    let man = Man::new(command.clone().name(title)).title(title.to_uppercase()).manual("farspace manual");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    sections(name).to_writer(&mut page)?;
    Ok(page)
}

/// The sections that clap knows nothing of.
fn sections(name: &str) -> Roff {
    let mut roff = Roff::default();
    let short = name.strip_prefix("farspace-").unwrap_or_default();
    let examples = examples(short);
    if !examples.is_empty() {
        roff.control("SH", ["EXAMPLES"]);
    }
    for (line, what) in examples {
        roff.control("TP", []);
        roff.text([bold(*line)]);
        roff.text([roman(*what)]);
    }
    roff.control("SH", ["EXIT STATUS"]);
    for exit in Exit::ALL {
        roff.control("TP", []);
        roff.text([bold(exit.code().to_string())]);
        roff.text([roman(exit.meaning())]);
    }
    if name == "farspace" {
        roff.control("SH", ["ENVIRONMENT"]);
        for (variable, what) in ENVIRONMENT {
            roff.control("TP", []);
            roff.text([bold(*variable)]);
            roff.text([roman(*what)]);
        }
    }
    roff
}

/// The variables that change what farspace does.
const ENVIRONMENT: &[(&str, &str)] = &[
    ("FARSPACE_BACKEND", "stock or native: use this backend instead of probing"),
    ("NO_COLOR", "no colours in the progress bar"),
    ("TERM", "dumb: no progress bar"),
    ("TMPDIR", "where demo writes if /dev/shm has no room"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_page_for_each_visible_command() {
        let names: Vec<String> = pages().unwrap().into_iter().map(|(name, _)| name).collect();
        for name in [
            "farspace.1",
            "farspace-dump.1",
            "farspace-bench-splice.1",
            "farspace-bench-exec.1",
            "farspace-completions.1",
        ] {
            assert!(names.contains(&name.to_owned()), "{names:?}");
        }
        assert!(!names.iter().any(|n| n.contains("target") || n.contains("help")), "{names:?}");
    }

    #[test]
    fn pages_tell_exit_codes() {
        for (name, page) in pages().unwrap() {
            assert!(String::from_utf8(page).unwrap().contains("EXIT STATUS"), "{name}");
        }
    }
}
