//! How things look on a terminal: tables, ages, sizes, colours. I/O only in [`print`].

use std::io::Write as _;

use anstyle::{AnsiColor, Style};
use anyhow::{Context as _, Result};

use crate::model::{EventKind, Timestamp};
use crate::status::{ConditionStatus, NodeState, Phase};

/// Between two columns.
const GAP: &str = "   ";
/// All is well.
pub const GOOD: Style = AnsiColor::Green.on_default();
/// On the way, or something is missing.
pub const FAIR: Style = AnsiColor::Yellow.on_default();
/// Wrong.
pub const BAD: Style = AnsiColor::Red.on_default();
/// Nothing special.
pub const PLAIN: Style = Style::new();
/// Headings.
pub const STRONG: Style = Style::new().bold();

/// Writes to the standard output, without colours where it is no terminal.
pub fn print(text: &str) -> Result<()> {
    let mut out = anstream::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("write to the standard output")
}

/// `text` in a style.
pub fn styled(text: &str, style: Style) -> String {
    if style == PLAIN { text.to_string() } else { format!("{style}{text}{style:#}") }
}

/// The style of a phase.
pub fn phase_style(phase: Phase) -> Style {
    match phase {
        Phase::Ready => GOOD,
        Phase::Pending | Phase::Creating | Phase::Updating | Phase::Degraded | Phase::Deleting => FAIR,
        Phase::Unavailable | Phase::DataLost => BAD,
    }
}

/// The style of a node's state.
pub fn node_style(state: NodeState) -> Style {
    match state {
        NodeState::Ready => GOOD,
        NodeState::Launching | NodeState::Starting | NodeState::Syncing | NodeState::Stopping => FAIR,
        NodeState::NotAnswering | NodeState::Unreachable | NodeState::Dead => BAD,
    }
}

/// The style of a condition.
pub fn condition_style(status: ConditionStatus) -> Style {
    match status {
        ConditionStatus::True => GOOD,
        ConditionStatus::False => BAD,
        ConditionStatus::Unknown => FAIR,
    }
}

/// The style of an event.
pub fn event_style(kind: EventKind) -> Style {
    match kind {
        EventKind::Normal => PLAIN,
        EventKind::Warning => FAIR,
    }
}

/// A cell of a table.
pub struct Cell(String, Style);

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Cell {
        cell(text.into(), PLAIN)
    }
}

/// A cell in a style. A text of several lines is put on one.
#[allow(clippy::needless_pass_by_value)] // Numbers and enums, mostly.
pub fn cell(text: impl ToString, style: Style) -> Cell {
    Cell(text.to_string().lines().collect::<Vec<_>>().join(" "), style)
}

/// Columns side by side, as kubectl prints them. Widths only grow, so that the rows of a watch stay
/// under their headings as well as can be.
pub struct Table {
    headings: Vec<&'static str>,
    widths: Vec<usize>,
}

impl Table {
    /// A table with these columns.
    pub fn new(headings: &[&'static str]) -> Table {
        Table { headings: headings.to_vec(), widths: headings.iter().map(|h| h.len()).collect() }
    }

    /// The headings and these rows.
    pub fn page(&mut self, rows: &[Vec<Cell>]) -> String {
        self.measure(rows);
        let headings: Vec<Cell> = self.headings.iter().map(|h| cell(h, STRONG)).collect();
        self.line(&headings) + &self.lines(rows)
    }

    /// More rows, without headings.
    pub fn more(&mut self, rows: &[Vec<Cell>]) -> String {
        self.measure(rows);
        self.lines(rows)
    }

    fn measure(&mut self, rows: &[Vec<Cell>]) {
        for row in rows {
            for (width, Cell(text, _)) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(text.chars().count());
            }
        }
    }

    fn lines(&self, rows: &[Vec<Cell>]) -> String {
        rows.iter().map(|row| self.line(row)).collect()
    }

    /// One line, without spaces at its end.
    fn line(&self, row: &[Cell]) -> String {
        let last = row.len().saturating_sub(1);
        let mut line = String::new();
        for (i, (Cell(text, style), width)) in row.iter().zip(&self.widths).enumerate() {
            line.push_str(&styled(text, *style));
            if i < last {
                line.push_str(&" ".repeat(width - text.chars().count()));
                line.push_str(GAP);
            }
        }
        line.trim_end().to_string() + "\n"
    }
}

/// How long ago: `5s`, `12m`, `3h`, `4d`; two units while the first is small, as `4m10s`.
pub fn age(now: Timestamp, then: Timestamp) -> String {
    let s = now.since_ms(then) / 1000;
    let (minutes, hours, days) = (s / 60, s / 3600, s / 86_400);
    match s {
        0..=119 => format!("{s}s"),
        120..=599 if !s.is_multiple_of(60) => format!("{minutes}m{}s", s % 60),
        120..=10_799 => format!("{minutes}m"),
        10_800..=28_799 if !minutes.is_multiple_of(60) => format!("{hours}h{}m", minutes % 60),
        10_800..=172_799 => format!("{hours}h"),
        _ => format!("{days}d"),
    }
}

/// A size for people: `1.5Mi`.
#[allow(clippy::cast_precision_loss)] // One decimal is shown.
pub fn size(bytes: u64) -> String {
    let units = [("Gi", 1u64 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)];
    match units.iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) => {
            let number = format!("{:.1}", bytes as f64 / *unit as f64);
            format!("{}{name}", number.trim_end_matches(".0"))
        }
        None => format!("{bytes}B"),
    }
}

/// `1 node`, `2 nodes`.
pub fn count(n: usize, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}

/// Each line of a text, indented.
pub fn indent(text: &str, by: &str) -> String {
    text.lines().map(|line| format!("{by}{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::{Table, age, cell, size};
    use crate::model::Timestamp;

    #[test]
    fn ages_are_short_and_rough() {
        let of = |s: u64| age(Timestamp(s * 1000), Timestamp(0));
        let shown: Vec<String> = [0, 119, 120, 250, 600, 7300, 10_800, 12_000, 90_000, 400_000].map(of).into();
        assert_eq!(shown, ["0s", "119s", "2m", "4m10s", "10m", "121m", "3h", "3h20m", "25h", "4d"]);
        assert_eq!(age(Timestamp(0), Timestamp(5000)), "0s", "a clock that went back");
    }

    #[test]
    fn sizes_keep_one_decimal_at_most() {
        assert_eq!([0, 1023, 1 << 20, (3 << 20) / 2, 5 << 30].map(size), ["0B", "1023B", "1Mi", "1.5Mi", "5Gi"]);
    }

    #[test]
    fn colours_do_not_move_columns_and_widths_only_grow() {
        let mut table = Table::new(&["NAME", "PHASE", "AGE"]);
        let page = table.page(&[vec!["orders".into(), cell("Ready", super::GOOD), "5s".into()]]);
        assert_eq!(anstream::adapter::strip_str(&page).to_string(), "NAME     PHASE   AGE\norders   Ready   5s\n");
        assert_eq!(table.more(&[vec!["a".into(), "b".into(), "".into()]]), "a        b\n");
    }
}
