//! Queries: PostgreSQL's semantics, and which plan they take.

use nodedb_bridge::plan::{Order, Output, SetExpr};
use nodedb_types::{DataType, Value};

use super::fake::Db;
use crate::plan::Plan;

#[test]
fn literals_and_arithmetic() {
    let db = Db::empty();
    let cases = [
        ("SELECT 1 + 1", "2"),
        ("SELECT 7 / 2, -7 / 2, 7 % 3", "3|-3|1"),
        ("SELECT 1.50 + 2", "3.50"),
        ("SELECT 1.5 * 1.25", "1.875"),
        ("SELECT 10 / 4.0", "2.5"),
        ("SELECT 'a' || 1 || NULL", ""),
        ("SELECT 'a' || 'b'", "ab"),
        ("SELECT '42'::int + 1", "43"),
        ("SELECT 2.5::int, 3.5::float8::int, (-2.5)::int", "3|4|-3"),
        ("SELECT round(2.5), round(1.005, 2)", "3|1.01"),
        (
            "SELECT length('häl'), upper('ß'), substring('hello' from 2 for 3)",
            "3|SS|ell",
        ),
        ("SELECT CASE WHEN 1 = 2 THEN 1 ELSE 2 END", "2"),
        ("SELECT CASE WHEN false THEN 1/0 ELSE 5 END", "5"),
        (
            "SELECT coalesce(NULL, 3), nullif(1, 1), greatest(1, NULL, 3), least(2, 1.5)",
            "3||3|1.5",
        ),
        ("SELECT true AND NULL, false AND NULL, NULL OR true", "|f|t"),
        ("SELECT NULL IS NULL, 1 IS DISTINCT FROM NULL", "t|t"),
        (
            "SELECT 'abc' LIKE 'a%', 'ABC' ILIKE 'a_c', 'abc' ~ '^a.c$', 'abc' !~ 'd'",
            "t|t|t|t",
        ),
        (
            "SELECT date '2024-01-31' + interval '1 month'",
            "2024-02-29 00:00:00",
        ),
        (
            "SELECT extract(year from timestamp '2024-05-06 07:08:09')",
            "2024",
        ),
        ("SELECT date '2024-03-01' - date '2024-02-01'", "29"),
        ("SELECT now()::date, current_date", "2024-01-02|2024-01-02"),
        ("SELECT '[1,2]'::vector <-> '[4,6]'", "5"),
        ("SELECT st_astext(st_point(13.4, 52.5))", "POINT(13.4 52.5)"),
        ("SELECT '{\"a\": [1, 2]}'::jsonb -> 'a' ->> 1", "2"),
        ("SELECT 1 IN (1, 2), 3 NOT IN (1, NULL)", "t|"),
        ("SELECT 3 BETWEEN 1 AND 5", "t"),
        ("SELECT current_user, current_database()", "ada|nodedb"),
        (
            "SELECT 'NaN'::float8 = 'NaN', 'NaN'::float8 > 1, -0.0::float8 = 0",
            "t|t|t",
        ),
        (
            "SELECT trim('  x '), trim(both 'x' from 'xax'), position('b' in 'abc')",
            "x|a|2",
        ),
        ("SELECT 1 WHERE false", ""),
        ("SELECT md5('a')", "0cc175b9c0f1b6a831c399e269772661"),
        ("VALUES (1, 'a'), (2, 'b')", "1|a;2|b"),
        ("SELECT (SELECT 5) + 1", "6"),
        ("SELECT 'x' UNION ALL SELECT NULL", "x;"),
        ("SELECT * FROM generate_series(1, 5, 2)", "1;3;5"),
        (
            "SELECT sum(i), avg(i), count(*), min(i), max(i) FROM generate_series(1, 4) i",
            "10|2.5|4|1|4",
        ),
    ];
    db.check(&cases);
}

#[test]
fn failures_have_their_code() {
    let db = Db::filled();
    let cases = [
        ("SELECT 1 / 0", "22012"),
        ("SELECT 1.0 / 0", "22012"),
        ("SELECT 2147483647 + 1", "22003"),
        ("SELECT 'x'::int", "22P02"),
        ("SELECT 3000000000::int", "22003"),
        ("SELECT nothing FROM packages", "42703"),
        ("SELECT * FROM pakages", "42P01"),
        ("SELECT nofunction(1)", "42883"),
        ("SELECT 1 + 'x'::text", "42883"),
        ("SELECT id FROM packages WHERE name = 1", "42883"),
        ("SELECT name, count(*) FROM packages", "42803"),
        ("SELECT id FROM packages WHERE count(*) > 1", "42803"),
        (
            "SELECT id FROM packages p JOIN tenants t ON t.id = p.tenant_id",
            "42702",
        ),
        ("SELECT id FROM packages WHERE size", "42804"),
        ("SELECT id FROM packages ORDER BY 3", "42P10"),
        ("SELECT id FROM packages LIMIT -1", "2201W"),
        ("SELECT '[1,2,3]'::vector <-> '[1,2]'", "22000"),
        (
            "SELECT id FROM packages ORDER BY embedding <=> '[1,2,3]' LIMIT 1",
            "22000",
        ),
        ("SELECT text_match(tenants, 'x') FROM tenants", "42704"),
        ("SELECT $1 IS NULL", "42P18"),
        ("SELECT '2024-13-01'::date", "22008"),
        ("SELECT * FROM packages FOR UPDATE", "0A000"),
        ("SELECT array_agg(id ORDER BY id) FROM packages", "0A000"),
        (
            "SELECT json_object_agg(name, id) OVER () FROM packages",
            "0A000",
        ),
        (
            "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY id) FROM packages",
            "0A000",
        ),
        ("SELECT 1 WHERE generate_series(1, 3) = 2", "0A000"),
        ("SELECT st_buffer(1)", "0A000"),
        ("SELECT rank() FROM packages", "42809"),
        ("SELECT no_such_function(1)", "42883"),
        ("SELECT 1 UNION SELECT 'x'", "22P02"),
        ("SELECT 1 UNION SELECT 1, 2", "42601"),
    ];
    db.check(&cases.map(|(sql, code)| (sql, ["!", code].concat())));
}

#[test]
fn names_are_suggested_with_positions() {
    let db = Db::filled();
    let failure = db.query("SELECT id, nmae FROM packages", &[]).unwrap_err();
    assert_eq!(failure.position(), Some(12));
    assert!(
        failure.hint().unwrap().contains("packages.name"),
        "{failure:?}"
    );
    let failure = db.query("SELECT 1 FROM pakages", &[]).unwrap_err();
    assert_eq!(failure.position(), Some(15));
    assert!(failure.hint().unwrap().contains("packages"));
}

#[test]
fn queries_over_one_collection() {
    let db = Db::filled();
    let cases = [
        ("SELECT name FROM packages WHERE id = 3", "gamma"),
        ("SELECT name FROM packages WHERE id = 3 AND size > 100", ""),
        ("SELECT id FROM packages WHERE id IN (2, 4, 9)", "2;4"),
        ("SELECT id FROM packages WHERE id = 3.5", ""),
        (
            "SELECT id FROM packages WHERE tenant_id = 1 ORDER BY id",
            "1;2",
        ),
        (
            "SELECT id FROM packages WHERE NOT (tenant_id = 1) ORDER BY id",
            "3;4;6",
        ),
        ("SELECT id FROM packages WHERE (tenant_id = 1) IS NULL", "5"),
        (
            "SELECT id FROM packages WHERE tenant_id = 1 OR size > 40 ORDER BY id",
            "1;2;5",
        ),
        ("SELECT count(*) FROM packages", "6"),
        ("SELECT count(*) + 1 FROM packages WHERE tenant_id = 2", "3"),
        ("SELECT count(size), count(*) FROM packages", "5|6"),
        ("SELECT id FROM packages ORDER BY id DESC LIMIT 2", "6;5"),
        (
            "SELECT id FROM packages ORDER BY id LIMIT 2 OFFSET 1",
            "2;3",
        ),
        (
            "SELECT id FROM packages ORDER BY tenant_id DESC LIMIT 3",
            "5;6;3",
        ),
        (
            "SELECT id FROM packages ORDER BY tenant_id LIMIT 3",
            "1;2;3",
        ),
        ("SELECT id FROM packages ORDER BY name DESC", "5;3;4;2;1;6"),
        ("SELECT id FROM packages ORDER BY score", "5;1;2;6;4;3"),
        (
            "SELECT id, round((embedding <=> '[1,0]')::numeric, 3) FROM packages ORDER BY embedding <=> '[1,0]' LIMIT 3",
            "1|0.000;5|0.106;3|0.293",
        ),
        (
            "SELECT id FROM packages ORDER BY embedding <-> '[0,1]', id LIMIT 2",
            "2;3",
        ),
        (
            "SELECT id FROM packages WHERE text_match(packages, 'beta')",
            "2",
        ),
        (
            "SELECT id, text_match(packages, 'beta') FROM packages ORDER BY id LIMIT 2",
            "1|f;2|t",
        ),
        (
            "SELECT id FROM packages WHERE text_match(name, 'beta') IS NULL",
            "5",
        ),
        (
            "SELECT upper(name) AS n FROM packages WHERE size < 25 ORDER BY n",
            "ALPHA;BETA;ZETA",
        ),
        (
            "SELECT price * 2, price + 1 FROM packages WHERE id = 1",
            "3.00|2.50",
        ),
        ("SELECT id FROM packages WHERE price = 2.25", "2"),
        (
            "SELECT id FROM packages WHERE added >= '2024-02-01' ORDER BY added",
            "2;6;3",
        ),
        (
            "SELECT DISTINCT tenant_id FROM packages ORDER BY 1",
            "1;2;4;",
        ),
        ("SELECT id FROM packages WHERE size / 0 > 1 AND false", ""),
    ];
    db.check(&cases);
}

#[test]
fn relational_queries() {
    let db = Db::filled();
    let cases = [
        (
            "SELECT p.id, t.title FROM packages p JOIN tenants t ON t.id = p.tenant_id ORDER BY p.id",
            "1|one;2|one;3|two;4|two",
        ),
        (
            "SELECT t.title, count(p.id) FROM tenants t LEFT JOIN packages p ON p.tenant_id = t.id GROUP BY t.title ORDER BY 1",
            "one|2;three|0;two|2",
        ),
        (
            "SELECT tenant_id, sum(size), avg(price), sum(price) FROM packages WHERE tenant_id IS NOT NULL GROUP BY tenant_id ORDER BY tenant_id",
            "1|30|1.875|3.75;2|30|10|10.00;4|5|99.99|99.99",
        ),
        (
            "SELECT tenant_id FROM packages GROUP BY tenant_id HAVING count(*) > 1 ORDER BY 1",
            "1;2",
        ),
        (
            "SELECT id FROM packages WHERE tenant_id IN (SELECT id FROM tenants WHERE title = 'two') ORDER BY id",
            "3;4",
        ),
        (
            "SELECT id FROM tenants t WHERE EXISTS (SELECT 1 FROM packages p WHERE p.tenant_id = t.id) ORDER BY id",
            "1;2",
        ),
        (
            "SELECT id FROM tenants t WHERE NOT EXISTS (SELECT 1 FROM packages p WHERE p.tenant_id = t.id)",
            "3",
        ),
        (
            "SELECT id, (SELECT count(*) FROM packages p WHERE p.tenant_id = t.id) FROM tenants t ORDER BY id",
            "1|2;2|2;3|0",
        ),
        (
            "SELECT max(size) FROM packages WHERE size < (SELECT max(size) FROM packages)",
            "30",
        ),
        (
            "WITH big AS (SELECT id, size FROM packages WHERE size >= 20) SELECT count(*) FROM big b JOIN big c ON b.id = c.id",
            "3",
        ),
        (
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4) SELECT i FROM n ORDER BY i",
            "1;2;3;4",
        ),
        (
            "SELECT id, row_number() OVER (PARTITION BY tenant_id ORDER BY id DESC) FROM packages WHERE tenant_id < 3 ORDER BY id",
            "1|2;2|1;3|2;4|1",
        ),
        (
            "SELECT id, sum(size) OVER (ORDER BY id) FROM packages WHERE id < 4 ORDER BY id",
            "1|10;2|30;3|60",
        ),
        (
            "SELECT tenant_id FROM packages WHERE id < 4 UNION SELECT id FROM tenants ORDER BY 1",
            "1;2;3",
        ),
        (
            "SELECT id FROM tenants EXCEPT SELECT tenant_id FROM packages",
            "3",
        ),
        (
            "SELECT id FROM tenants INTERSECT SELECT tenant_id FROM packages ORDER BY id",
            "1;2",
        ),
        (
            "SELECT DISTINCT ON (tenant_id) tenant_id, id FROM packages ORDER BY tenant_id, id DESC",
            "1|2;2|4;4|6;|5",
        ),
        (
            "SELECT s.id FROM (SELECT id, tenant_id FROM packages ORDER BY embedding <=> '[1,0]' LIMIT 2) s JOIN tenants t ON t.id = s.tenant_id",
            "1",
        ),
        (
            "SELECT tenant_id, grouping_total FROM (SELECT tenant_id, count(*) AS grouping_total FROM packages GROUP BY ROLLUP (tenant_id)) x WHERE tenant_id IS NULL ORDER BY 2",
            "|1;|6",
        ),
        (
            "SELECT string_agg(name, ',' ORDER BY name) FROM packages WHERE id < 4",
            "alpha,beta,gamma",
        ),
        (
            "SELECT bool_and(size > 5), bool_or(size > 40), count(DISTINCT tenant_id) FROM packages",
            "f|t|3",
        ),
        (
            "SELECT a.id, b.id FROM tenants a, tenants b WHERE a.id < b.id ORDER BY 1, 2",
            "1|2;1|3;2|3",
        ),
        (
            "SELECT * FROM tenants a JOIN tenants b USING (id) WHERE id = 1",
            "1|one|one",
        ),
        (
            "SELECT count(*) FROM packages p WHERE text_match(p, 'beta') OR p.tenant_id = (SELECT max(id) - 1 FROM tenants)",
            "3",
        ),
        (
            "SELECT id FROM packages WHERE size > ALL (SELECT size FROM packages WHERE tenant_id = 1) ORDER BY id",
            "3;5",
        ),
        (
            "SELECT id FROM packages WHERE tenant_id NOT IN (SELECT id FROM tenants) ORDER BY id",
            "6",
        ),
        (
            "SELECT t.id, EXISTS (SELECT 1 FROM packages p WHERE p.tenant_id = t.id) FROM tenants t ORDER BY id",
            "1|t;2|t;3|f",
        ),
    ];
    db.check(&cases);
    assert_eq!(db.code("SELECT (SELECT id FROM tenants)"), "21000");
}

#[test]
fn parameters_are_inferred() {
    let db = Db::filled();
    let types = |sql: &str| db.bind(sql, &[]).unwrap().parameters().to_vec();
    assert_eq!(
        types("SELECT id FROM packages WHERE id = $1"),
        [DataType::Int8]
    );
    assert_eq!(
        types("SELECT id FROM packages ORDER BY embedding <=> $1 LIMIT $2"),
        [DataType::Vector(None), DataType::Int8]
    );
    assert_eq!(
        types("INSERT INTO packages (id, name, price) VALUES ($1, $2, $3)"),
        [
            DataType::Int8,
            DataType::Text(None),
            DataType::Numeric(None)
        ]
    );
    assert_eq!(types("SELECT $1"), [DataType::Text(None)]);
    assert_eq!(
        types("SELECT $1::int + $2"),
        [DataType::Int4, DataType::Int4]
    );
    assert_eq!(
        types("SELECT id FROM packages WHERE st_dwithin(location, st_point($1, $2), $3)"),
        [DataType::Float8, DataType::Float8, DataType::Float8]
    );
    let rows = db.query(
        "SELECT id FROM packages WHERE id = $1 AND name = $2",
        &[Value::Int8(2), Value::Text("beta".to_owned())],
    );
    assert_eq!(rows.unwrap(), ["2"]);
}

#[test]
fn the_short_path_takes_what_it_can() {
    let db = Db::filled();
    let plan = |sql: &str| db.plan(sql, &[]).unwrap();
    assert!(matches!(
        plan("SELECT name FROM packages WHERE id = 7"),
        Plan::Get(_)
    ));
    let Plan::Set(set) = plan(
        "SELECT name, embedding <=> '[1,0]' AS d FROM packages WHERE tenant_id = 42
         AND text_match(packages, 'memory') AND st_dwithin(location, st_point(13.4, 52.5), 1500000)
         ORDER BY embedding <=> '[1,0]' LIMIT 10",
    ) else {
        panic!("the question is no set query");
    };
    assert_eq!(set.query.sources.len(), 3);
    let all = vec![SetExpr::Source(0), SetExpr::Source(1), SetExpr::Source(2)];
    assert_eq!(set.query.set, SetExpr::And(all));
    assert!(matches!(&set.query.order, Order::Rank(spec) if spec.index.is_some()));
    assert_eq!(set.query.limit, Some(10));
    let Output::Rows(columns) = &set.query.output else {
        panic!("no rows");
    };
    // Name, score and key travel; the vector does not.
    assert_eq!(columns.len(), 3);
    let Plan::Set(count) = plan("SELECT count(*) FROM packages WHERE tenant_id = 42") else {
        panic!("a count is no set query");
    };
    assert!(matches!(count.query.output, Output::Count));
    assert!(matches!(
        plan("SELECT id FROM packages ORDER BY name LIMIT 3"),
        Plan::Relational(_)
    ));
}

#[test]
fn a_read_by_key_planned_beforehand_is_the_one_that_the_rules_find() {
    let db = Db::filled();
    let shown = |sql: &str, value: &Value| {
        let plan = db.plan(sql, std::slice::from_ref(value)).unwrap();
        match plan {
            Plan::Get(plan) => format!("{:?} {:?}", plan.get, plan.projection),
            _ => panic!("{sql}: no read by key"),
        }
    };
    for columns in ["id", "name, id, name AS again"] {
        for condition in ["id = $1", "$1 = id"] {
            for value in [Value::Int8(2), Value::Int8(-7), Value::Null] {
                let sql = format!("SELECT {columns} FROM packages WHERE {condition}");
                // The rules alone see through the condition that is always true.
                let general = shown(&format!("{sql} AND true"), &value);
                assert_eq!(shown(&sql, &value), general);
            }
        }
    }
}

#[test]
fn a_row_is_read_alone_where_that_gives_what_the_plan_gives() {
    let db = Db::filled();
    let environment = db.environment();
    let read = |sql: &str, value: &Value| {
        let bound = db.bind(sql, &[]).unwrap();
        let value = std::slice::from_ref(value);
        let parameters = &value[..bound.parameters().len()];
        let read = bound.row_read(parameters, environment.key_seed, environment.shards);
        let Plan::Get(plan) = bound.instantiate(parameters, &environment).unwrap() else {
            panic!("{sql}: no read by key");
        };
        read.unwrap().map(|read| {
            let key = (read.shard, read.key);
            assert_eq!(
                (read.collection, vec![key]),
                (plan.get.collection, plan.get.keys)
            );
            read.columns.to_vec()
        })
    };
    let two = Value::Int8(2);
    let by_id = |columns: &str| format!("SELECT {columns} FROM packages WHERE id = $1");
    assert_eq!(
        read(&by_id("name, id, name AS again"), &two),
        Some(vec![1, 0, 1])
    );
    assert_eq!(
        read("SELECT id FROM packages WHERE id = 2", &two),
        Some(vec![0])
    );
    assert_eq!(read(&by_id("embedding"), &two).map(|c| c.len()), Some(1));
    // Open numerics are normalised on the way through Arrow, and no row has these keys.
    assert_eq!(read(&by_id("id, price"), &two), None);
    assert_eq!(read(&by_id("id"), &Value::Null), None);
}

#[test]
fn explain_names_sets_and_order() {
    let db = Db::filled();
    let plan = db
        .plan(
            "SELECT id FROM packages WHERE tenant_id = 1 AND size > 3 ORDER BY embedding <=> '[1,0]' LIMIT 2",
            &[],
        )
        .unwrap();
    let lines = crate::explain(&plan, db.catalog.as_ref(), None);
    assert_eq!(lines[0], "Set Query on packages");
    let text = lines.join("\n");
    assert!(text.contains("ranked by packages_meaning (hnsw)"), "{text}");
    assert!(
        text.contains("tenant_id = 1 by packages_tenant (btree)"),
        "{text}"
    );
    assert!(text.contains("(size > 3) by rows"), "{text}");
    let range = "SELECT id FROM packages WHERE tenant_id BETWEEN 1 AND 3 OR tenant_id > 7 AND 9 >= tenant_id";
    let plan = db.plan(range, &[]).unwrap();
    let text = crate::explain(&plan, db.catalog.as_ref(), None).join("\n");
    for one in [
        "Set: (1 OR 2)",
        "Source 1: tenant_id >= 1 AND tenant_id <= 3 by",
        "Source 2: tenant_id > 7 AND tenant_id <= 9 by",
    ] {
        assert!(text.contains(one), "{text}");
    }
}

#[test]
fn a_join_runs_on_the_executors_threads() {
    use futures::StreamExt;
    let db = Db::filled();
    let executor = crate::Executor::new(crate::ExecutorConfig {
        threads: 1,
        spill_directory: None,
        spill_bytes_max: 0,
    })
    .unwrap();
    let sql = "SELECT p.id FROM packages p JOIN tenants t ON t.id = p.tenant_id ORDER BY 1";
    for statement in [sql, "SELECT 1"] {
        let Plan::Relational(plan) = db.plan(statement, &[]).unwrap() else {
            panic!("{statement} is not relational");
        };
        let context = crate::RunContext {
            leaves: std::sync::Arc::new(db.clone()),
            account: std::sync::Arc::new(nodedb_bridge::account::MemoryAccount::new(1 << 26)),
            explain: None,
        };
        let rows = executor.run(plan, context).unwrap();
        let batches = futures::executor::block_on(rows.collect::<Vec<_>>());
        let rows: usize = batches.into_iter().map(|b| b.unwrap().num_rows()).sum();
        assert_eq!(rows, if statement == sql { 4 } else { 1 });
    }
}
