//! gdb's answers about a core.

use std::io::Read as _;
use std::path::Path;
use std::process::Command;

use super::programs;

/// Printed between answers.
const MARK: &str = "@@";

/// What gdb says about one core.
pub(crate) struct Answers {
    /// What it says on opening the core, before the first question.
    pub(crate) opening: String,
    /// One for each question.
    pub(crate) answers: Vec<String>,
}

impl Answers {
    /// Lines of the opening that complain.
    pub(crate) fn warnings(&self) -> Vec<&str> {
        let complains =
            |line: &&str| ["warning", "Couldn't", "rror", "truncated"].iter().any(|word| line.contains(word));
        self.opening.lines().filter(complains).collect()
    }
}

/// Asks gdb about a core.
///
/// # Panics
///
/// gdb fails or doesn't get to the last question.
#[track_caller]
pub(crate) fn ask(executable: &Path, core: &Path, questions: &[&str]) -> Answers {
    let mut command = gdb();
    command.arg(executable).arg(core);
    for question in questions {
        command.arg("-ex").arg(format!("echo {MARK}\\n")).arg("-ex").arg(question);
    }
    // One pipe for both, or errors would be apart from their question.
    let (mut reader, writer) = std::io::pipe().unwrap();
    command.stdout(writer.try_clone().unwrap()).stderr(writer);
    let mut child = command.spawn().unwrap();
    drop(command);
    let mut text = Vec::new();
    reader.read_to_end(&mut text).unwrap();
    let status = child.wait().unwrap();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(status.success(), "gdb: {status}\n{text}");
    let mark = format!("{MARK}\n");
    let mut parts = text.split(&mark).map(str::to_owned);
    let opening = parts.next().unwrap_or_default();
    let answers: Vec<String> = parts.collect();
    assert_eq!(answers.len(), questions.len(), "gdb gave up:\n{text}");
    Answers { opening, answers }
}

/// gdb without anybody's settings.
fn gdb() -> Command {
    let mut command = programs::command("gdb", "gdb");
    command.args(["-nx", "-nh", "-batch", "-ex", "set pagination off", "-ex", "set width 0"]);
    // No questions to servers about symbols.
    command.env_remove("DEBUGINFOD_URLS");
    command
}
