//! What `driftline top` shows, and how it is drawn.

use ratatui::{
    Frame,
    layout::{Alignment, Constraint, Layout},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Cell, Paragraph, Row as Cells, Table, Wrap},
};

/// How a pipeline stands at a moment.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub pipeline: String,
    /// Whether its nodes still run, as far as is known here.
    pub runs: bool,
    /// What there is to say, in one sentence.
    pub sentence: String,
    /// The evidence that something has changed, the one from which it is an alarm, and the windows judged, as
    /// [`crate::report::evidence`] says it.
    pub evidence: Option<String>,
    /// Sources, then stages, each after those it reads.
    pub rows: Vec<Row>,
    pub notes: Vec<String>,
}

/// How a node stands.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub name: String,
    /// The verdict and its colour, as [`crate::report::verdict`] names them.
    pub verdict: (&'static str, &'static str),
    pub per_second: Option<f64>,
    /// Records written for it and not read yet; `None` of a source.
    pub lag: Option<u64>,
    /// `None` where the node runs in another process.
    pub p99_ms: Option<f64>,
    pub moved: Vec<String>,
}

/// The columns; those of numbers are aligned to the right.
const HEADER: [(&str, Alignment); 6] = [
    ("node", Alignment::Left),
    ("verdict", Alignment::Left),
    ("records/s", Alignment::Right),
    ("lag", Alignment::Right),
    ("p99 ms", Alignment::Right),
    ("moved", Alignment::Left),
];
const WIDTHS: [Constraint; 6] = [
    Constraint::Length(14),
    Constraint::Length(16),
    Constraint::Length(9),
    Constraint::Length(8),
    Constraint::Length(8),
    Constraint::Fill(1),
];

impl View {
    pub(super) fn draw(&self, frame: &mut Frame<'_>) {
        let rows = self.rows.iter().map(|row| row.moved.len().max(1) as u16).sum::<u16>();
        let [title, sentence, table, notes, keys] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(4),
            Constraint::Length(rows + 2),
            Constraint::Fill(1),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        frame.render_widget(self.title(), title);
        frame.render_widget(Paragraph::new(self.sentence.as_str()).wrap(Wrap { trim: true }), sentence);
        let header = HEADER.map(|(name, alignment)| Cell::from(Line::from(name).alignment(alignment)));
        let header = Cells::new(header).style(Style::new().add_modifier(Modifier::DIM));
        frame.render_widget(Table::new(self.rows.iter().map(Row::cells), WIDTHS).header(header), table);
        let told: Vec<Line<'_>> = self.notes.iter().map(|note| Line::from(note.as_str())).collect();
        frame.render_widget(Paragraph::new(told).wrap(Wrap { trim: true }), notes);
        let quits = if self.runs { "q or Ctrl-C: quit" } else { "the sources have ended    q or Ctrl-C: quit" };
        frame.render_widget(Line::styled(quits, Style::new().add_modifier(Modifier::DIM)), keys);
    }

    fn title(&self) -> Line<'_> {
        let mut spans = vec![Span::styled(self.pipeline.as_str(), Style::new().add_modifier(Modifier::BOLD))];
        if let Some(evidence) = &self.evidence {
            spans.push(Span::raw(format!("  {evidence}")));
        }
        Line::from(spans)
    }
}

impl Row {
    fn cells(&self) -> Cells<'_> {
        let (word, colour) = self.verdict;
        let number = |shown: Option<String>| Cell::from(Line::from(shown.unwrap_or_default()).right_aligned());
        let moved: Vec<Line<'_>> = self.moved.iter().map(|signal| Line::from(signal.as_str())).collect();
        let height = moved.len().max(1) as u16;
        Cells::new([
            Cell::from(self.name.as_str()),
            Cell::from(Line::from(vec![Span::styled("● ", Style::new().fg(of_terminal(colour))), Span::raw(word)])),
            number(self.per_second.map(|rate| format!("{rate:.0}"))),
            number(self.lag.map(|lag| lag.to_string())),
            number(self.p99_ms.map(|p99| format!("{p99:.1}"))),
            Cell::from(moved),
        ])
        .height(height)
    }
}

/// Returns the colour of a terminal's code.
fn of_terminal(code: &str) -> Color {
    match code {
        "31" => Color::Red,
        "32" => Color::Green,
        "33" => Color::Yellow,
        _ => Color::DarkGray,
    }
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend};

    use super::*;

    fn row(name: &str, verdict: (&'static str, &'static str), moved: &[&str]) -> Row {
        Row {
            name: name.to_owned(),
            verdict,
            per_second: Some(1250.4),
            lag: (name != "microphone").then_some(32),
            p99_ms: (name == "vad").then_some(12.34),
            moved: moved.iter().map(|&signal| signal.to_owned()).collect(),
        }
    }

    fn speech() -> View {
        View {
            pipeline: "speech".to_owned(),
            runs: true,
            sentence:
                "began in `vad` (it answers probes otherwise, 00:01:00), 84 % (70 to 91) of the change in `search`; \
                       `microphone` unchanged"
                    .to_owned(),
            evidence: Some("evidence 1.9, an alarm from 10000; 22 windows judged".to_owned()),
            rows: vec![
                row("microphone", ("unchanged", "32"), &[]),
                row(
                    "vad",
                    ("stage changed", "31"),
                    &["output:segment.length mean 1243 → 850 ms", "output:segment.level mean -21 → -20 dBFS"],
                ),
                row("asr", ("input moved", "33"), &["output:transcript.words unlike any before 0 % → 12 %"]),
            ],
            notes: vec!["vad answers probes otherwise than when they were recorded (3 times)".to_owned()],
        }
    }

    #[test]
    fn a_screen_says_what_stands_where() {
        let mut terminal = Terminal::new(TestBackend::new(104, 16)).unwrap();
        terminal.draw(|frame| speech().draw(frame)).unwrap();
        let expected = [
            "speech  evidence 1.9, an alarm from 10000; 22 windows judged",
            "began in `vad` (it answers probes otherwise, 00:01:00), 84 % (70 to 91) of the change in `search`;",
            "`microphone` unchanged",
            "",
            "",
            "node           verdict          records/s      lag   p99 ms moved",
            "microphone     ● unchanged           1250",
            "vad            ● stage changed       1250       32     12.3 output:segment.length mean 1243 → 850 ms",
            "                                                            output:segment.level mean -21 → -20 dBFS",
            "asr            ● input moved         1250       32          output:transcript.words unlike any before 0",
            "",
            "vad answers probes otherwise than when they were recorded (3 times)",
            "",
            "",
            "",
            "q or Ctrl-C: quit",
        ];
        let buffer = terminal.backend().buffer();
        for (line, expected) in expected.into_iter().enumerate() {
            let cells = (0..104).map(|column| buffer[(column, line as u16)].symbol()).collect::<String>();
            assert_eq!(cells.trim_end(), expected, "line {line}");
        }
        let dot = |line: u16| buffer[(15, line)].fg;
        assert_eq!([dot(6), dot(7), dot(9)], [Color::Green, Color::Red, Color::Yellow]);
    }

    #[test]
    fn a_small_screen_is_no_failure() {
        let mut terminal = Terminal::new(TestBackend::new(12, 4)).unwrap();
        terminal.draw(|frame| View { runs: false, evidence: None, ..speech() }.draw(frame)).unwrap();
        assert_eq!(terminal.backend().buffer()[(0, 0)].symbol(), "s");
    }
}
