//! Plain aligned columns.

/// Which side a column is aligned to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// Lays out `rows` under `header`, two spaces apart, without trailing blanks.
pub(crate) fn render(header: &[(&str, Align)], rows: &[Vec<String>]) -> String {
    let head = header.iter().map(|(name, _)| (*name).to_owned()).collect::<Vec<_>>();
    let lines = std::iter::once(&head).chain(rows);
    let mut widths = vec![0; header.len()];
    for line in lines.clone() {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for line in lines {
        let mut out = String::new();
        for ((cell, width), (_, align)) in line.iter().zip(&widths).zip(header) {
            let padded = match align {
                Align::Left => format!("{cell:<width$}  "),
                Align::Right => format!("{cell:>width$}  "),
            };
            out.push_str(&padded);
        }
        text.push_str(out.trim_end());
        text.push('\n');
    }
    text
}

/// Breaks `text` at blanks into lines of at most `width` columns.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let used = lines.last().map_or(0, |l| l.chars().count());
        if used > 0 && used + 1 + word.chars().count() > width {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let header = [("name", Align::Left), ("n", Align::Right)];
        let text = render(&header, &[vec!["a".into(), "10".into()], vec!["long".into(), "1".into()]]);
        assert_eq!(text, "name   n\na     10\nlong   1\n");
    }

    #[test]
    fn wraps_at_blanks() {
        assert_eq!(wrap("aa bb cc", 5), ["aa bb", "cc"]);
    }
}
