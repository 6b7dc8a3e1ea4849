//! What CRIU needs in the guest: modules, its program, and Python for crit.

use crate::vm::Initramfs;
use anyhow::Context;
use std::path::Path;
use xshell::{Shell, cmd};

/// What CRIU looks at before it does anything: sockets by sock_diag(7), nftables and veth pairs in a namespace of its own,
/// tun devices. libcrc32c asks for crc32c when it is loaded.
pub(super) const MODULES: &[&str] = &[
    "crc32c_generic",
    "unix_diag",
    "tcp_diag",
    "udp_diag",
    "raw_diag",
    "netlink_diag",
    "af_packet_diag",
    "nf_tables",
    "nf_conntrack",
    "nf_conntrack_netlink",
    "veth",
    "tun",
];

/// Debian's Python, whatever else is on the path.
const PYTHON: &str = "/usr/bin/python3";

/// Prints the files of all modules that crit uses, those that it only imports when it is used among them.
const USED: &str = "
import sys, json, base64, argparse, ipaddress, encodings.latin_1, encodings.ascii, encodings.idna
from pycriu import cli, images
for module in list(sys.modules.values()):
    if getattr(module, '__file__', None):
        print(module.__file__)
";

/// Adds criu and crit with all that they need.
///
/// # Errors
/// One of them can't be found.
pub(super) fn add_criu(shell: &Shell, files: &mut Initramfs) -> anyhow::Result<()> {
    files.program("criu")?;
    let crit = crate::packages::find("crit").context("crit: there is no such program here")?;
    files.file(crit, "/usr/bin/crit")?;
    files.program_as(PYTHON, PYTHON)?;
    let script = USED.trim();
    // As in the guest, where no path is set by an environment.
    let used = cmd!(shell, "{PYTHON} -I -c {script}").quiet().read().context("what crit uses")?;
    for file in used.lines() {
        if Path::new(file).extension().is_some_and(|extension| extension == "so") {
            files.program_as(file, file)?;
        } else {
            files.file(file, file)?;
        }
    }
    Ok(())
}
