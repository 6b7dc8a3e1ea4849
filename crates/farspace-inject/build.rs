//! Compiles the agent to a flat, position-independent blob.
//!
//! The same compiler that builds this crate is run on `farspace-agent/blob.rs`; the linker script puts
//! everything into one segment that starts at 0. A blob with writable data or relocations is refused: it is
//! copied to an address that is not known before.

use std::env;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

use object::{Object, ObjectSection};

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    let crates =
        PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or("CARGO_MANIFEST_DIR is not set")?).join("..");
    let (agent, abi) = (crates.join("farspace-agent"), crates.join("farspace-abi"));
    for input in [agent.join("blob.rs"), agent.join("agent.ld"), agent.join("src"), abi.join("src")] {
        println!("cargo::rerun-if-changed={}", input.display());
    }
    let target = env::var("TARGET")?;
    if !target.starts_with("x86_64-") || !target.contains("linux") {
        return Err(format!("farspace runs on x86-64 Linux only so far, not on {target}").into());
    }

    let rlib = out.join("libfarspace_abi.rlib");
    rustc(&target)?
        .args(["--crate-type=rlib", "--crate-name=farspace_abi", "-o"])
        .arg(&rlib)
        .arg(abi.join("src/lib.rs"))
        .run()?;
    let elf = out.join("agent.elf");
    rustc(&target)?
        .args(["--crate-type=bin", "--crate-name=farspace_agent_blob", "-o"])
        .arg(&elf)
        .arg("--extern")
        .arg(format!("farspace_abi={}", rlib.display()))
        .args([
            "-Clink-arg=-nostdlib",
            "-Clink-arg=-nostartfiles",
            "-Clink-arg=-static",
            "-Crelocation-model=pic",
        ])
        .args(["-Clink-arg=-no-pie", "-Clink-arg=-Wl,--build-id=none", "-Clink-arg=-Wl,--gc-sections"])
        .arg(format!("-Clink-arg=-Wl,-T,{}", agent.join("agent.ld").display()))
        .arg(agent.join("blob.rs"))
        .run()?;
    std::fs::write(out.join("agent.bin"), flatten(&elf)?)?;
    Ok(())
}

/// The compiler with the options common to both parts of the blob.
fn rustc(target: &str) -> Result<Command, Box<dyn Error>> {
    let mut command = Command::new(env::var_os("RUSTC").ok_or("RUSTC is not set")?);
    command.args(["--edition=2024", "--cap-lints=allow", "--target", target]);
    // opt-level 2 whatever the profile: a debug build has panic paths, which the blob must not have.
    command.args([
        "-Copt-level=2",
        "-Cpanic=abort",
        "-Cdebuginfo=0",
        "-Coverflow-checks=off",
        "-Cforce-unwind-tables=no",
    ]);
    command.args(["-Ccodegen-units=1", "-Cdebug-assertions=off"]);
    Ok(command)
}

trait Run {
    fn run(&mut self) -> Result<(), Box<dyn Error>>;
}

impl Run for Command {
    fn run(&mut self) -> Result<(), Box<dyn Error>> {
        let status = self.status()?;
        if status.success() { Ok(()) } else { Err(format!("{self:?} failed: {status}").into()) }
    }
}

fn flatten(elf: &Path) -> Result<Vec<u8>, Box<dyn Error>> {
    let bytes = std::fs::read(elf)?;
    let file = object::File::parse(&*bytes)?;
    for section in file.sections() {
        let name = section.name()?;
        if [".data", ".rela"].contains(&name) && section.size() > 0 {
            return Err(format!("the agent has {} bytes of {name}; it must have none", section.size()).into());
        }
    }
    let text = file.section_by_name(".text").ok_or("the agent has no code")?;
    if text.address() != 0 || file.entry() != 0 {
        return Err("the agent's entry is not at offset 0".into());
    }
    Ok(text.data()?.to_vec())
}
