//! Writes: what reaches the store, and what is refused.

use super::fake::Db;
use crate::plan::{Plan, WriteSource};

#[test]
fn rows_come_and_go_by_key() {
    let db = Db::filled();
    assert_eq!(
        db.ok("INSERT INTO tenants VALUES (9, 'nine') RETURNING id, upper(title)"),
        "9|NINE"
    );
    assert_eq!(
        db.ok("UPDATE tenants SET title = title || '!' WHERE id = 9 RETURNING title"),
        "nine!"
    );
    assert_eq!(
        db.ok("UPDATE tenants SET title = 'x' WHERE id = 9 AND title = 'other' RETURNING 1"),
        ""
    );
    assert_eq!(
        db.ok("DELETE FROM tenants WHERE id = 9 RETURNING title"),
        "nine!"
    );
    assert_eq!(db.ok("SELECT count(*) FROM tenants"), "3");
    assert!(matches!(
        db.plan("UPDATE tenants SET title = 'x' WHERE id = 9", &[]).unwrap(),
        Plan::Write(write) if matches!(&write.source, WriteSource::Keyed(rows) if rows.len() == 1)
    ));
}

#[test]
fn conflicts() {
    let db = Db::filled();
    assert_eq!(db.code("INSERT INTO tenants VALUES (1, 'again')"), "23505");
    assert_eq!(
        db.code("INSERT INTO tenants VALUES (7, 'a'), (7, 'b')"),
        "23505"
    );
    db.ok("INSERT INTO tenants VALUES (1, 'again'), (8, 'eight') ON CONFLICT DO NOTHING");
    assert_eq!(
        db.ok("SELECT title FROM tenants WHERE id IN (1, 8)"),
        "one;eight"
    );
    let upsert = "INSERT INTO tenants VALUES (1, 'uno'), (10, 'ten')
        ON CONFLICT (id) DO UPDATE SET title = tenants.title || '/' || excluded.title RETURNING *";
    assert_eq!(db.ok(upsert), "1|one/uno;10|ten");
    assert_eq!(
        db.code("INSERT INTO tenants VALUES (5, 'a'), (5, 'b') ON CONFLICT (id) DO UPDATE SET title = 'x'"),
        "21000"
    );
    assert_eq!(
        db.code("INSERT INTO tenants VALUES (5, 'a') ON CONFLICT (title) DO NOTHING"),
        "42P10"
    );
}

#[test]
fn writes_by_predicate_and_from_queries() {
    let db = Db::filled();
    assert_eq!(
        db.ok("UPDATE packages SET size = size + 1 WHERE tenant_id = 1 RETURNING id, size"),
        "1|11;2|21"
    );
    assert_eq!(
        db.ok("UPDATE packages p SET name = t.title FROM tenants t WHERE t.id = p.tenant_id AND t.id = 2 RETURNING p.name"),
        "two;two"
    );
    db.ok("INSERT INTO tenants SELECT id + 100, name FROM packages WHERE id <= 2");
    assert_eq!(
        db.ok("SELECT id, title FROM tenants WHERE id > 100 ORDER BY id"),
        "101|alpha;102|beta"
    );
    db.ok("DELETE FROM tenants WHERE id > 100");
    assert_eq!(db.ok("SELECT count(*) FROM tenants"), "3");
    db.ok("UPDATE tenants SET id = id + 10 WHERE id = 3");
    assert_eq!(db.ok("SELECT title FROM tenants WHERE id = 13"), "three");
    assert_eq!(db.ok("SELECT count(*) FROM tenants WHERE id = 3"), "0");
    db.ok("DELETE FROM packages p USING tenants t WHERE t.id = p.tenant_id AND t.title = 'one'");
    assert_eq!(db.ok("SELECT count(*) FROM packages"), "4");
}

#[test]
fn rows_that_do_not_fit() {
    let db = Db::filled();
    let cases = [
        ("INSERT INTO tenants VALUES (NULL, 'x')", "23502"),
        ("INSERT INTO tenants (title) VALUES ('x')", "23502"),
        ("INSERT INTO tenants VALUES (3000000000, 'x')", "22003"),
        ("INSERT INTO tenants VALUES ('x', 'x')", "22P02"),
        ("INSERT INTO tenants VALUES (1)", "42601"),
        ("INSERT INTO tenants VALUES (1, 'x', 3)", "42601"),
        ("INSERT INTO tenants (id, nothing) VALUES (1, 'x')", "42703"),
        (
            "INSERT INTO packages (id, embedding) VALUES (7, '[1,2,3]')",
            "22000",
        ),
        ("INSERT INTO packages (id, added) VALUES (7, 5)", "42804"),
        ("UPDATE tenants SET nothing = 1", "42703"),
        ("UPDATE tenants SET id = NULL WHERE id = 1", "23502"),
        ("DELETE FROM nowhere", "42P01"),
    ];
    db.check(&cases.map(|(sql, code)| (sql, ["!", code].concat())));
}

#[test]
fn a_collection_without_a_key() {
    let db = Db::filled();
    db.ok("INSERT INTO notes VALUES (now(), 'a'), (NULL, 'b')");
    assert_eq!(db.ok("SELECT body FROM notes ORDER BY body"), "a;b");
    db.ok("UPDATE notes SET body = body || '2' WHERE at IS NULL");
    assert_eq!(db.ok("SELECT body FROM notes ORDER BY body"), "a;b2");
    db.ok("DELETE FROM notes");
    assert_eq!(db.ok("SELECT count(*) FROM notes"), "0");
}
