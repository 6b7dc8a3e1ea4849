//! `cargo xtask fuzz`: parsers and protocols against made-up bytes, for a while each. It needs a nightly compiler, for
//! coverage and the address sanitizer, and nothing else: what cargo-fuzz would do is a few flags.

use anyhow::bail;
use xshell::{Shell, cmd};

/// Which of them, and how long.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only the target of this name.
    target: Option<String>,
    /// How long each of them runs.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

/// Packages and their targets.
const TARGETS: &[(&str, &[&str])] =
    &[("farspace-image", &["images", "page_server"]), ("farspace-exec", &["protocol"])];

const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// What libFuzzer needs of the compiler.
const FLAGS: &str = "--cfg fuzzing -Zsanitizer=address -Ccodegen-units=1 -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares";

/// Builds the targets and runs them; an error with the place of the bytes if one is found.
pub(crate) fn run(shell: &Shell, options: &Options) -> anyhow::Result<bool> {
    if cmd!(shell, "cargo +nightly --version").quiet().ignore_stdout().ignore_stderr().run().is_err() {
        bail!("fuzzing needs a nightly compiler: rustup toolchain install nightly");
    }
    let root = shell.current_dir();
    let built = root.join("target/fuzz");
    let mut nr = 0;
    for (package, names) in TARGETS {
        let names: Vec<_> =
            names.iter().filter(|name| options.target.as_deref().is_none_or(|only| only == **name)).collect();
        if names.is_empty() {
            continue;
        }
        {
            let _place = shell.push_dir(root.join("crates").join(package).join("fuzz"));
            let _target = shell.push_env("CARGO_TARGET_DIR", &built);
            let _flags = shell.push_env("RUSTFLAGS", FLAGS);
            cmd!(shell, "cargo +nightly build --release --target {TRIPLE}").run()?;
        }
        for name in names {
            // What was found to be of interest is where the next run begins.
            let corpus = built.join("corpus").join(name);
            shell.create_dir(&corpus)?;
            let program = built.join(TRIPLE).join("release").join(name);
            let found = built.join(format!("{name}-"));
            let (time, prefix) = (
                format!("-max_total_time={}", options.seconds),
                format!("-artifact_prefix={}", found.display()),
            );
            println!("{name}: {} s", options.seconds);
            cmd!(shell, "{program} {corpus} {time} {prefix} -rss_limit_mb=1024 -print_final_stats=1")
                .quiet()
                .run()?;
            nr += 1;
        }
    }
    if nr == 0 {
        bail!("no such target; there are images, page_server and protocol");
    }
    Ok(true)
}
