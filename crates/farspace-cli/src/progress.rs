//! A progress bar on a terminal; nothing anywhere else.

use std::io::IsTerminal as _;
use std::ops::ControlFlow;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::interrupt;

/// A bar with bytes, rate and time left, on stderr.
pub(crate) struct Progress {
    bar: ProgressBar,
    is_wanted: bool,
}

impl Progress {
    /// Shows it only if stderr is a terminal that can move its cursor.
    pub(crate) fn new(what: &str) -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        if !std::io::stderr().is_terminal() || dumb {
            return Self { bar: ProgressBar::hidden(), is_wanted: false };
        }
        let bar = ProgressBar::hidden();
        bar.set_style(style());
        bar.set_message(what.to_owned());
        Self { bar, is_wanted: true }
    }

    /// Shows how far it is; breaks the work off if the user asked for that.
    pub(crate) fn update(&self, done_bytes: u64, total_bytes: u64) -> ControlFlow<()> {
        if self.is_wanted && self.bar.is_hidden() {
            // Shown once there is something to show; what came before is no part of the rate.
            self.bar.reset();
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.bar.set_length(total_bytes);
        self.bar.set_position(done_bytes);
        interrupt::flow()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn style() -> ProgressStyle {
    // no-color.org: the variable counts when it is set and not empty.
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let bar = if plain { "{bar:30}" } else { "{bar:30.cyan}" };
    let template = format!(
        "{{msg}} {bar} {{binary_bytes}}/{{binary_total_bytes}} {{binary_bytes_per_sec}} {{eta}} left"
    );
    // The template is fixed; a mistake in it costs the looks, not the dump.
    ProgressStyle::with_template(&template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn template_is_valid() {
        let _ = style();
        assert!(Progress::new("test").update(1, 2).is_continue());
    }
}
