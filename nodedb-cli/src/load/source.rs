//! A file to import: its format, from its ending or as it is told, its compression, its text.
//!
//! Text is UTF-8, with or without a byte order mark. Lines are read as bytes, so that an error can
//! name the row whose bytes are no text, and up to a limit, so that a quote that is never closed
//! does not fill the memory.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use nodedb_client::Client;

use super::watch::Progress;
use super::{csv, ndjson, parquet};

/// What a file holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum FileFormat {
    /// Fields between commas, a header first
    Csv,
    /// The same with tabs
    Tsv,
    /// A JSON object per line
    #[value(alias = "jsonl")]
    Ndjson,
    Parquet,
}

/// A record of text that is longer is none: a row takes half a mebibyte at most.
const RECORD_BYTES_MAX: usize = 16 << 20;
const MARK: &[u8] = b"\xef\xbb\xbf";

/// The format by the name's ending, and whether the file is compressed.
fn by_ending(path: &Path) -> Result<(Option<FileFormat>, bool)> {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
    let lower = name.to_ascii_lowercase();
    let (stem, compressed) = match lower.strip_suffix(".zst") {
        Some(stem) => (stem, true),
        None => (lower.as_str(), false),
    };
    if lower.ends_with(".gz") {
        bail!(
            "{0}: import does not read gzip\n  gunzip -c {0} | ndb import - --format …",
            path.display()
        );
    }
    let format = match Path::new(stem).extension().and_then(|e| e.to_str()) {
        Some("csv") => Some(FileFormat::Csv),
        Some("tsv") => Some(FileFormat::Tsv),
        Some("ndjson" | "jsonl") => Some(FileFormat::Ndjson),
        Some("parquet") => Some(FileFormat::Parquet),
        _ => None,
    };
    Ok((format, compressed))
}

/// Loads a file, or standard input where its name is `-`; gives the number of rows committed.
pub async fn file(
    client: &Client,
    path: &Path,
    format: Option<FileFormat>,
    collection: &str,
    progress: &Arc<Progress>,
) -> Result<u64> {
    let is_stdin = path == Path::new("-");
    let (known, compressed) = match is_stdin {
        true => (None, false),
        false => by_ending(path)?,
    };
    let Some(format) = format.or(known) else {
        bail!(
            "{}: the format is not known\n  name it: --format csv, tsv, ndjson or parquet",
            match is_stdin {
                true => "standard input".into(),
                false => path.display().to_string(),
            }
        );
    };
    let open = || File::open(path).with_context(|| format!("cannot open {}", path.display()));
    if format == FileFormat::Parquet {
        if is_stdin || compressed {
            bail!("Parquet is read from its end: it must be a plain file");
        }
        return parquet(client, open()?, collection, progress).await;
    }
    let bytes: Box<dyn Read> = match (is_stdin, compressed) {
        (true, _) => Box::new(io::stdin()),
        (false, true) => Box::new(zstd::stream::read::Decoder::new(open()?)?),
        (false, false) => Box::new(open()?),
    };
    let lines = Lines::new(BufReader::new(bytes))
        .with_context(|| format!("cannot read {}", path.display()))?;
    match format {
        FileFormat::Csv => csv::load(client, lines, b',', collection, progress).await,
        FileFormat::Tsv => csv::load(client, lines, b'\t', collection, progress).await,
        FileFormat::Ndjson | FileFormat::Parquet => {
            ndjson::load(client, lines, collection, progress).await
        }
    }
}

/// Lines of a text.
pub(super) struct Lines<R> {
    source: R,
    /// Of the line that was read last; the first is 1.
    pub number: u64,
}

impl<R: BufRead> Lines<R> {
    /// Skips a byte order mark. Fails for text in UTF-16, which has another.
    pub fn new(mut source: R) -> Result<Lines<R>> {
        let first = source.fill_buf()?;
        if first.starts_with(b"\xff\xfe") || first.starts_with(b"\xfe\xff") {
            bail!("the text is UTF-16; import reads UTF-8: iconv -f UTF-16 -t UTF-8");
        }
        if first.starts_with(MARK) {
            source.consume(MARK.len());
        }
        Ok(Lines { source, number: 0 })
    }

    /// Adds the next line to a record, with its end; false when there is none.
    pub fn add_to(&mut self, record: &mut Vec<u8>) -> Result<bool> {
        let room = (RECORD_BYTES_MAX + 1).saturating_sub(record.len()) as u64;
        let read = (&mut self.source).take(room).read_until(b'\n', record)?;
        if record.len() > RECORD_BYTES_MAX {
            bail!("longer than {} MiB", RECORD_BYTES_MAX >> 20);
        }
        self.number += u64::from(read > 0);
        Ok(read > 0)
    }
}

/// A record as text.
pub(super) fn utf8(record: &[u8]) -> Result<&str> {
    std::str::from_utf8(record).map_err(|error| {
        anyhow!(
            "invalid UTF-8 after {} bytes of the row",
            error.valid_up_to()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_tell_the_format() {
        let of = |name: &str| by_ending(Path::new(name)).expect(name);
        assert_eq!(of("a/b.CSV"), (Some(FileFormat::Csv), false));
        assert_eq!(of("b.jsonl.zst"), (Some(FileFormat::Ndjson), true));
        assert_eq!(of("b.txt"), (None, false));
        by_ending(Path::new("b.csv.gz")).expect_err("gzip");
    }

    #[test]
    fn marks_are_skipped_and_lines_counted() {
        let mut lines = Lines::new(&b"\xef\xbb\xbfa\nb"[..]).expect("a text");
        let mut record = Vec::new();
        assert!(lines.add_to(&mut record).expect("a line"));
        assert_eq!((record.as_slice(), lines.number), (&b"a\n"[..], 1));
        assert!(lines.add_to(&mut record).expect("a line"));
        assert!(!lines.add_to(&mut record).expect("the end"));
        assert_eq!((record.as_slice(), lines.number), (&b"a\nb"[..], 2));
        assert!(Lines::new(&b"\xff\xfea\0"[..]).is_err());
        utf8(b"a\xe9").expect_err("Latin 1");
    }
}
