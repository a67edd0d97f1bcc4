//! Messages to a client, written straight into the output buffer.

use bytes::{BufMut, BytesMut};
use nodedb_query::catalog::ResultColumn;
use nodedb_types::Failure;

use super::frame::Format;

/// Writes one message: kind, length, and the body that `body` puts.
pub fn message(out: &mut BytesMut, kind: u8, body: impl FnOnce(&mut BytesMut)) {
    out.put_u8(kind);
    let at = out.len();
    out.put_u32(0);
    body(out);
    let length = (out.len() - at) as u32;
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

pub fn string(out: &mut BytesMut, text: &str) {
    // A zero byte would end the string early; text of ours holds none, names of users might.
    match text.find('\0') {
        None => out.put_slice(text.as_bytes()),
        Some(end) => out.put_slice(&text.as_bytes()[..end]),
    }
    out.put_u8(0);
}

pub fn authentication_ok(out: &mut BytesMut) {
    message(out, b'R', |out| out.put_u32(0));
}

pub fn parameter_status(out: &mut BytesMut, name: &str, value: &str) {
    message(out, b'S', |out| {
        string(out, name);
        string(out, value);
    });
}

pub fn backend_key(out: &mut BytesMut, process: u32, secret: &[u8]) {
    message(out, b'K', |out| {
        out.put_u32(process);
        out.put_slice(secret);
    });
}

/// The newest minor version we speak, and the options we do not know.
pub fn negotiate(out: &mut BytesMut, version: u32, options: &[&str]) {
    message(out, b'v', |out| {
        out.put_u32(version);
        out.put_u32(options.len() as u32);
        for option in options {
            string(out, option);
        }
    });
}

/// No transaction blocks exist yet, so a session that is ready is always idle.
pub fn ready(out: &mut BytesMut) {
    message(out, b'Z', |out| out.put_u8(b'I'));
}

/// Messages without a body.
pub fn empty(out: &mut BytesMut, kind: u8) {
    message(out, kind, |_| {});
}

pub const PARSE_COMPLETE: u8 = b'1';
pub const BIND_COMPLETE: u8 = b'2';
pub const CLOSE_COMPLETE: u8 = b'3';
pub const NO_DATA: u8 = b'n';
pub const PORTAL_SUSPENDED: u8 = b's';
pub const EMPTY_QUERY: u8 = b'I';

pub fn command_complete(out: &mut BytesMut, tag: &str) {
    message(out, b'C', |out| string(out, tag));
}

/// The completion of a statement that gave or changed `rows` rows.
pub fn rows_complete(out: &mut BytesMut, word: &str, rows: u64) {
    message(out, b'C', |out| {
        out.put_slice(word.as_bytes());
        out.put_u8(b' ');
        decimal(out, rows);
        out.put_u8(0);
    });
}

fn decimal(out: &mut BytesMut, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.put_slice(&digits[at..]);
}

pub fn parameter_description(out: &mut BytesMut, oids: impl ExactSizeIterator<Item = u32>) {
    message(out, b't', |out| {
        out.put_u16(oids.len() as u16);
        for oid in oids {
            out.put_u32(oid);
        }
    });
}

/// `formats`: one per column, one for all, or none for text.
pub fn row_description(out: &mut BytesMut, columns: &[ResultColumn], formats: &[Format]) {
    message(out, b'T', |out| {
        out.put_u16(columns.len() as u16);
        for (i, column) in columns.iter().enumerate() {
            string(out, &column.name);
            // The column is not traced to a table: no client needs it to read the rows.
            out.put_u32(0);
            out.put_u16(0);
            let (oid, length, modifier) = match column.shown_as {
                Some(shown) => (shown.oid(), shown.typlen(), -1),
                None => {
                    let own = &column.data_type;
                    (own.oid(), own.typlen(), own.type_modifier())
                }
            };
            out.put_u32(oid);
            out.put_i16(length);
            out.put_i32(modifier);
            out.put_u16(format_code(format_of(formats, i)));
        }
    });
}

/// The format of column `i` by the rules of Bind.
pub fn format_of(formats: &[Format], i: usize) -> Format {
    match formats {
        [] => Format::Text,
        [one] => *one,
        many => many.get(i).copied().unwrap_or(Format::Text),
    }
}

fn format_code(format: Format) -> u16 {
    match format {
        Format::Text => 0,
        Format::Binary => 1,
    }
}

/// Text rows are to follow from the client.
pub fn copy_in(out: &mut BytesMut, columns: usize) {
    copy(out, b'G', columns);
}

/// Text rows follow to the client.
pub fn copy_out(out: &mut BytesMut, columns: usize) {
    copy(out, b'H', columns);
}

fn copy(out: &mut BytesMut, kind: u8, columns: usize) {
    message(out, kind, |out| {
        out.put_u8(0);
        out.put_u16(columns as u16);
        for _ in 0..columns {
            out.put_u16(0);
        }
    });
}

pub fn copy_data(out: &mut BytesMut, data: &[u8]) {
    message(out, b'd', |out| out.put_slice(data));
}

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    Notice,
    Error,
    /// The connection ends.
    Fatal,
}

impl Severity {
    fn word(self) -> &'static str {
        match self {
            Severity::Notice => "NOTICE",
            Severity::Error => "ERROR",
            Severity::Fatal => "FATAL",
        }
    }
}

/// `offset`: characters of the query string before the statement that the failure counts from.
pub fn failure(out: &mut BytesMut, severity: Severity, failure: &Failure, offset: u32) {
    let kind = match severity {
        Severity::Notice => b'N',
        Severity::Error | Severity::Fatal => b'E',
    };
    message(out, kind, |out| {
        let mut field = |code: u8, text: &str| {
            out.put_u8(code);
            string(out, text);
        };
        field(b'S', severity.word());
        field(b'V', severity.word());
        field(b'C', failure.code().code());
        field(b'M', failure.message());
        if let Some(detail) = failure.detail() {
            field(b'D', detail);
        }
        if let Some(hint) = failure.hint() {
            field(b'H', hint);
        }
        if let Some(position) = failure.position() {
            field(b'P', &(position + offset).to_string());
        }
        let object = failure.object();
        if object.table.is_some() {
            field(b's', "public");
        }
        for (code, name) in [
            (b't', &object.table),
            (b'c', &object.column),
            (b'n', &object.constraint),
        ] {
            if let Some(name) = name {
                field(code, name);
            }
        }
        out.put_u8(0);
    });
}
