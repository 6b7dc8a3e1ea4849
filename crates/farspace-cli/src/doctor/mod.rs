//! What the kernel and the user's rights allow: each capability probed, explained, and how to get it.
//!
//! `farspace::probe` does the probing that needs raw system calls; the files here add what /proc and /sys tell
//! and put both into words.

use rustix::io::Errno;
use serde::Serialize;

mod kernel;
mod memory;
mod processor;
mod tracing;
mod tracking;
mod verdict;

pub(crate) use verdict::Verdict;

/// Whether a capability is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Found {
    /// Probed and there.
    Yes,
    /// There with a limit that matters.
    Partly,
    /// Probed and not there.
    No,
}

impl From<bool> for Found {
    fn from(there: bool) -> Self {
        if there { Self::Yes } else { Self::No }
    }
}

/// One line of the report.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Capability {
    /// Stable name for programs.
    pub(crate) name: &'static str,
    /// Whether it is there.
    pub(crate) found: Found,
    /// What was seen: a value, or why not.
    pub(crate) detail: String,
    /// What that means for the user.
    pub(crate) meaning: String,
    /// How to get it, where something can be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) remedy: Option<String>,
}

impl Capability {
    fn new(name: &'static str, found: impl Into<Found>, detail: impl Into<String>, meaning: &str) -> Self {
        let (found, detail) = (found.into(), detail.into());
        Self { name, found, detail, meaning: meaning.to_owned(), remedy: None }
    }

    /// From a probe whose success says all: `there` and `absent` are the two meanings.
    fn probed<T>(name: &'static str, result: &Result<T, Errno>, there: &str, absent: &str) -> Self {
        match result {
            Ok(_) => Self::new(name, true, "works", there),
            Err(errno) => Self::new(name, false, errno_name(*errno), absent),
        }
    }

    /// Adds the remedy, shown unless all is well.
    fn remedy(mut self, remedy: &str) -> Self {
        if self.found != Found::Yes {
            self.remedy = Some(remedy.to_owned());
        }
        self
    }
}

/// The whole report.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// Machine architecture and number of CPUs.
    pub(crate) machine: String,
    /// Kernel release.
    pub(crate) kernel: String,
    /// Every capability.
    pub(crate) capabilities: Vec<Capability>,
    /// What farspace will do here.
    pub(crate) verdict: Verdict,
}

impl Report {
    /// Probes everything; takes some milliseconds.
    pub(crate) fn probe() -> Self {
        let mut capabilities = kernel::probe();
        capabilities.extend(tracing::probe());
        capabilities.extend(memory::probe());
        capabilities.extend(tracking::probe());
        capabilities.extend(processor::probe());
        let verdict = Verdict::from(capabilities.as_slice());
        Self { machine: machine(), kernel: kernel::release(), capabilities, verdict }
    }
}

/// "x86_64, 2 CPUs".
pub(crate) fn machine() -> String {
    let cpus = processor::usable_cpus();
    let plural = if cpus == 1 { "" } else { "s" };
    format!("{}, {cpus} CPU{plural}", rustix::system::uname().machine().to_string_lossy())
}

/// The kernel's release.
pub(crate) fn kernel_release() -> String {
    kernel::release()
}

/// "EPERM (Operation not permitted)" for the errnos that probes meet, else the text alone.
fn errno_name(errno: Errno) -> String {
    let name = match errno {
        Errno::PERM => "EPERM",
        Errno::ACCESS => "EACCES",
        Errno::NOSYS => "ENOSYS",
        Errno::INVAL => "EINVAL",
        Errno::IO => "EIO",
        Errno::NOTTY => "ENOTTY",
        Errno::OPNOTSUPP => "EOPNOTSUPP",
        Errno::NODEV => "ENODEV",
        _ => return crate::failure::errno_text(&errno.into()),
    };
    name.to_owned()
}

/// A trimmed file of /proc or /sys.
fn read_setting(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}
