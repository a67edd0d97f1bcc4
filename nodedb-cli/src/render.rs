//! How results look: an aligned table, CSV, a JSON array, or a JSON object per line. The first and the
//! third need all rows; the others are written row by row.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;

use clap::ValueEnum;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use nodedb_client::{DataType, Failure, Row, Value};
use nodedb_types::{json, text};

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Format {
    Table,
    Csv,
    Json,
    Ndjson,
}

/// How much of a long result a table shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Length {
    /// What a person can read: the first and the last rows, the beginning of long cells.
    Screen,
    /// All of it.
    Whole,
}

impl Length {
    /// What goes to a program or a file is never cut.
    pub fn of_stdout() -> Length {
        match io::stdout().is_terminal() {
            true => Length::Screen,
            false => Length::Whole,
        }
    }
}

/// Rows of a long result that a table shows: its head and its tail.
const TABLE_HEAD: usize = 500;
const TABLE_TAIL: usize = 20;
/// The column of `EXPLAIN`'s answer.
const PLAN_COLUMN: &str = "QUERY PLAN";
/// Characters of a cell that a table shows.
const CELL_CHARS_MAX: usize = 120;

/// A form in which every row is a line, so that rows can be written as they come.
pub enum Lines {
    Csv { header: String },
    Ndjson { columns: Arc<[(String, DataType)]> },
}

impl Lines {
    /// `None` when the form needs all rows first, or when there are none to come.
    pub fn of(format: Format, columns: &Arc<[(String, DataType)]>) -> Option<Lines> {
        match format {
            _ if columns.is_empty() => None,
            Format::Table | Format::Json => None,
            Format::Csv => {
                let names: Vec<String> = columns.iter().map(|(name, _)| quoted(name)).collect();
                let header = names.join(",");
                Some(Lines::Csv { header })
            }
            Format::Ndjson => {
                let columns = columns.clone();
                Some(Lines::Ndjson { columns })
            }
        }
    }

    /// Writes what stands before the first row.
    pub fn begin(&self, out: &mut impl Write) -> io::Result<()> {
        match self {
            Lines::Csv { header } => writeln!(out, "{header}"),
            Lines::Ndjson { .. } => Ok(()),
        }
    }

    pub fn row(&self, out: &mut impl Write, row: &Row) -> io::Result<()> {
        match self {
            Lines::Ndjson { columns } => writeln!(out, "{}", object(columns, row)),
            Lines::Csv { .. } => {
                // An empty text is quoted, so that it differs from NULL.
                let field = |value: &Value| match value {
                    Value::Text(text) if text.is_empty() => "\"\"".to_owned(),
                    value => quoted(&cell(value)),
                };
                let fields: Vec<String> = row.values().iter().map(field).collect();
                writeln!(out, "{}", fields.join(","))
            }
        }
    }
}

/// A field of CSV.
fn quoted(field: &str) -> String {
    if field.contains(['"', ',', '\n', '\r']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}

/// Writes a whole result as one JSON array.
pub fn json_array(
    out: &mut dyn Write,
    columns: &[(String, DataType)],
    rows: &[Row],
) -> io::Result<()> {
    writeln!(out, "[")?;
    for (at, row) in rows.iter().enumerate() {
        let comma = if at + 1 < rows.len() { "," } else { "" };
        writeln!(out, "  {}{comma}", object(columns, row))?;
    }
    writeln!(out, "]")
}

/// One row as a JSON object, members in the order of the columns.
fn object(columns: &[(String, DataType)], row: &Row) -> String {
    let mut line = String::from("{");
    for (at, ((name, data_type), value)) in columns.iter().zip(row.values()).enumerate() {
        if at > 0 {
            line.push_str(", ");
        }
        json::quote(name, &mut line);
        line.push_str(": ");
        match (data_type, value) {
            // A document is nested, not quoted.
            (DataType::Jsonb, Value::Jsonb(document)) => line.push_str(document),
            _ => json::write_value(value, &mut line),
        }
    }
    line.push('}');
    line
}

fn cell(value: &Value) -> String {
    let mut shown = String::new();
    if !value.is_null() {
        text::format(value, &mut shown);
    }
    shown
}

/// Writes a whole result as an aligned table.
pub fn table(
    out: &mut dyn Write,
    length: Length,
    columns: &[(String, DataType)],
    rows: &[Row],
) -> io::Result<()> {
    // A plan is a tree, not a table.
    if matches!(columns, [(name, _)] if name == PLAN_COLUMN) {
        return rows
            .iter()
            .flat_map(|row| row.values().first())
            .try_for_each(|line| writeln!(out, "{}", cell(line)));
    }
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED);
    table.set_header(columns.iter().map(|(name, _)| name));
    let mut add = |rows: &[Row]| {
        for row in rows {
            table.add_row(row.values().iter().map(|v| match length {
                Length::Screen => shorten(cell(v)),
                Length::Whole => cell(v),
            }));
        }
    };
    let cut = length == Length::Screen && rows.len() > TABLE_HEAD + TABLE_TAIL;
    if cut {
        add(&rows[..TABLE_HEAD]);
        add(&rows[rows.len() - TABLE_TAIL..]);
    } else {
        add(rows);
    }
    for (at, (_, data_type)) in columns.iter().enumerate() {
        let number = matches!(
            data_type,
            DataType::Int2
                | DataType::Int4
                | DataType::Int8
                | DataType::Float4
                | DataType::Float8
                | DataType::Numeric(_)
        );
        if number && let Some(column) = table.column_mut(at) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    writeln!(out, "{table}")?;
    let s = if rows.len() == 1 { "" } else { "s" };
    if cut {
        return writeln!(
            out,
            "({} row{s}; the first {TABLE_HEAD} and the last {TABLE_TAIL} are shown)",
            rows.len()
        );
    }
    writeln!(out, "({} row{s})", rows.len())
}

fn shorten(cell: String) -> String {
    match cell.char_indices().nth(CELL_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &cell[..end]),
        None => cell,
    }
}

/// An error in psql's manner, with a caret under its position.
pub fn failure(failure: &Failure, statement: &str) -> String {
    let mut out = format!("ERROR:  {} ({})\n", failure.message(), failure.code());
    if let Some(position) = failure.position() {
        out.push_str(&caret(statement, position as usize));
    }
    for (label, text) in [("DETAIL", failure.detail()), ("HINT", failure.hint())] {
        if let Some(text) = text {
            out.push_str(&format!("{label}:  {text}\n"));
        }
    }
    out
}

/// The statement's line that holds the 1-based character position, and a caret below it.
fn caret(statement: &str, position: usize) -> String {
    let mut before = position.saturating_sub(1);
    for (number, line) in statement.lines().enumerate() {
        let length = line.chars().count();
        if before <= length {
            let label = format!("LINE {}: ", number + 1);
            let shown: String = line.chars().take(200).collect();
            return format!(
                "{label}{shown}\n{}^\n",
                " ".repeat(label.len() + before.min(200))
            );
        }
        before -= length + 1;
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;
    use nodedb_client::SqlState;

    #[test]
    fn the_caret_stands_under_the_position() {
        let failed = Failure::new(SqlState::UndefinedColumn, "column \"x\" does not exist").at(15);
        let shown = failure(&failed, "SELECT 1\nWHERE x = 1");
        assert_eq!(
            shown,
            "ERROR:  column \"x\" does not exist (42703)\nLINE 2: WHERE x = 1\n             ^\n"
        );
    }

    #[test]
    fn long_cells_are_cut_between_characters() {
        let cut = shorten("é".repeat(200));
        assert_eq!(cut.chars().count(), CELL_CHARS_MAX + 1);
    }
}
