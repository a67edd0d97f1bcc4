//! Unsafe code: only in rings, I/O, SIMD and FFI, and never without a `SAFETY:` line.

use super::Problem;
use super::lexer::find_word;
use super::tree::{File, Tree};

/// Where unsafe code may stand, as parts of a path.
const PLACES: &[&str] = &[
    "/src/ring/",
    "/src/io/",
    "/src/simd/",
    "/ffi/",
    "/ffi.rs",
    // The rings' wake-ups: an eventfd, which only libc offers.
    "nodedb-bridge/src/wake.rs",
    // What threads ask of the scheduler, by system calls that only libc offers.
    "nodedb-bridge/src/schedule.rs",
    // Tokio watches that eventfd, and a test of threads polls it.
    "nodedb-control/src/worker/pump.rs",
    "nodedb-event/src/watch.rs",
    "nodedb-data/src/core/tests/threads.rs",
];

/// Looks for `unsafe` in the code of every Rust file.
pub(crate) fn check(tree: &Tree) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (path, file) in tree.rust() {
        for (at, line) in file.lines.iter().enumerate() {
            let Some(column) = find_word(&line.code, "unsafe").next() else {
                continue;
            };
            if !PLACES.iter().any(|p| path.contains(p)) {
                problems.push(Problem::new(
                    path,
                    at + 1,
                    "unsafe code outside rings, I/O, SIMD and FFI",
                    "use the safe form, or move it to one of those folders",
                ));
            }
            if needs_reason(file, at, column) && !has_safety(file, at) {
                problems.push(Problem::new(
                    path,
                    at + 1,
                    "unsafe code without a SAFETY comment",
                    "say in a `// SAFETY:` line directly above why it is sound",
                ));
            }
        }
    }
    problems
}

/// A block or an implementation has to be argued for; `unsafe fn` is a demand on its callers.
fn needs_reason(file: &File, at: usize, column: usize) -> bool {
    let rest = file.lines[at].code[column + "unsafe".len()..].trim_start();
    let next = match rest.is_empty() {
        true => file.lines.get(at + 1).map_or("", |l| l.code.trim_start()),
        false => rest,
    };
    next.starts_with('{') || next.starts_with("impl")
}

/// `SAFETY:` on the line or in the comments above, past attributes and the lines of the statement
/// that the block belongs to.
fn has_safety(file: &File, at: usize) -> bool {
    let says = |i: usize| file.lines[i].comment.contains("SAFETY:");
    if says(at) {
        return true;
    }
    for i in (0..at).rev() {
        let code = file.lines[i].code.trim();
        if says(i) {
            return true;
        }
        let ends = code.ends_with([';', '}', '{', ',']);
        let nothing = code.is_empty() && file.lines[i].comment.is_empty();
        if ends || nothing {
            return false;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        check(&Tree::of(&[(path, text)]))
            .into_iter()
            .map(|p| p.what)
            .collect()
    }

    #[test]
    fn unsafe_code_has_its_places() {
        let text = "// SAFETY: the slot is ours\nlet x = unsafe { p.read() };";
        assert_eq!(
            found("nodedb-bridge/src/ring/spsc.rs", text),
            Vec::<String>::new()
        );
        assert!(found("nodedb-bridge/src/plan/x.rs", text)[0].contains("outside"));
    }

    #[test]
    fn a_block_needs_its_reason() {
        let path = "nodedb-data/src/io/uring.rs";
        assert!(found(path, "let x = unsafe { p.read() };")[0].contains("SAFETY"));
        assert!(
            found(path, "// SAFETY: old\nlet a = 1;\nlet x = unsafe { b() };")[0]
                .contains("SAFETY")
        );
        assert!(found(path, "unsafe impl Send for X {}")[0].contains("SAFETY"));
        assert!(
            found(
                path,
                "// SAFETY: one\n// two\n#[inline]\nlet y =\n    unsafe { b() };"
            )
            .is_empty()
        );
        assert!(found(path, "/// # Safety\npub unsafe fn f() {}").is_empty());
        assert!(found(path, "#![deny(unsafe_op_in_unsafe_fn)]\n// unsafe").is_empty());
    }
}
