//! The other tables of `pg_catalog`: namespaces, types, methods, roles, settings, and those that
//! have no rows here but that clients read.

use std::sync::Arc;

use nodedb_bridge::op::CONTRACTS;
use nodedb_types::schema::Stream;
use nodedb_types::{DataType, Value};

use super::lookup::{OWNER_OID, PG_CATALOG_OID, PUBLIC_OID, TYPES, namespace_names};
use super::{NO, NULL, Row, Snapshot, Table, YES, empty, int, oid, table_of, text};
use crate::expr::types::is_number;

const PG: &str = "pg_catalog";

pub(super) static TABLES: &[Table] = &[
    table_of(
        PG,
        "pg_namespace",
        "oid oid, nspname name, nspowner oid, nspacl text",
        namespaces,
    ),
    table_of(
        PG,
        "pg_type",
        "oid oid, typname name, typnamespace oid, typowner oid, typlen int2, typbyval bool, typtype char, typcategory char, typispreferred bool, typisdefined bool, typdelim char, typrelid oid, typsubscript oid, typelem oid, typarray oid, typinput text, typoutput text, typreceive text, typsend text, typmodin text, typmodout text, typanalyze text, typalign char, typstorage char, typnotnull bool, typbasetype oid, typtypmod int4, typndims int4, typcollation oid, typdefaultbin text, typdefault text, typacl text",
        types,
    ),
    table_of(
        PG,
        "pg_am",
        "oid oid, amname name, amhandler text, amtype char",
        methods,
    ),
    table_of(
        PG,
        "pg_database",
        "oid oid, datname name, datdba oid, encoding int4, datlocprovider char, datistemplate bool, datallowconn bool, datconnlimit int4, datfrozenxid int8, datminmxid int8, dattablespace oid, datcollate text, datctype text, daticulocale text, datcollversion text, datacl text",
        databases,
    ),
    table_of(
        PG,
        "pg_roles",
        "rolname name, rolsuper bool, rolinherit bool, rolcreaterole bool, rolcreatedb bool, rolcanlogin bool, rolreplication bool, rolconnlimit int4, rolpassword text, rolvaliduntil timestamptz, rolbypassrls bool, rolconfig text, oid oid",
        roles,
    ),
    table_of(
        PG,
        "pg_user",
        "usename name, usesysid oid, usecreatedb bool, usesuper bool, userepl bool, usebypassrls bool, passwd text, valuntil timestamptz, useconfig text",
        users,
    ),
    table_of(
        PG,
        "pg_settings",
        "name text, setting text, unit text, category text, short_desc text, extra_desc text, context text, vartype text, source text, min_val text, max_val text, enumvals text, boot_val text, reset_val text, sourcefile text, sourceline int4, pending_restart bool",
        settings,
    ),
    // NodeDB's own.
    table_of(
        PG,
        "ndb_streams",
        "name name, collection name, retention_bytes int8, created_ts int8",
        streams,
    ),
    table_of(
        PG,
        "pg_collation",
        "oid oid, collname name, collnamespace oid, collowner oid, collprovider char, collisdeterministic bool, collencoding int4, collcollate text, collctype text, colliculocale text, collversion text",
        collations,
    ),
    table_of(
        PG,
        "pg_tablespace",
        "oid oid, spcname name, spcowner oid, spcacl text, spcoptions text",
        tablespaces,
    ),
    empty(
        PG,
        "pg_description",
        "objoid oid, classoid oid, objsubid int4, description text",
    ),
    empty(
        PG,
        "pg_shdescription",
        "objoid oid, classoid oid, description text",
    ),
    empty(
        PG,
        "pg_proc",
        "oid oid, proname name, pronamespace oid, proowner oid, prolang oid, procost float4, prorows float4, provariadic oid, prosupport text, prokind char, prosecdef bool, proleakproof bool, proisstrict bool, proretset bool, provolatile char, proparallel char, pronargs int2, pronargdefaults int2, prorettype oid, proargtypes text, proallargtypes text, proargmodes text, proargnames text, proargdefaults text, protrftypes text, prosrc text, probin text, prosqlbody text, proconfig text, proacl text",
    ),
    empty(
        PG,
        "pg_language",
        "oid oid, lanname name, lanowner oid, lanispl bool, lanpltrusted bool, lanplcallfoid oid, laninline oid, lanvalidator oid, lanacl text",
    ),
    empty(
        PG,
        "pg_operator",
        "oid oid, oprname name, oprnamespace oid, oprowner oid, oprkind char, oprcanmerge bool, oprcanhash bool, oprleft oid, oprright oid, oprresult oid, oprcom oid, oprnegate oid, oprcode text, oprrest text, oprjoin text",
    ),
    empty(
        PG,
        "pg_opclass",
        "oid oid, opcmethod oid, opcname name, opcnamespace oid, opcowner oid, opcfamily oid, opcintype oid, opcdefault bool, opckeytype oid",
    ),
    empty(
        PG,
        "pg_aggregate",
        "aggfnoid oid, aggkind char, aggnumdirectargs int2",
    ),
    empty(
        PG,
        "pg_cast",
        "oid oid, castsource oid, casttarget oid, castfunc oid, castcontext char, castmethod char",
    ),
    empty(
        PG,
        "pg_trigger",
        "oid oid, tgrelid oid, tgparentid oid, tgname name, tgfoid oid, tgtype int2, tgenabled char, tgisinternal bool, tgconstrrelid oid, tgconstrindid oid, tgconstraint oid, tgdeferrable bool, tginitdeferred bool, tgnargs int2, tgattr text, tgargs text, tgqual text, tgoldtable text, tgnewtable text",
    ),
    empty(
        PG,
        "pg_rewrite",
        "oid oid, rulename name, ev_class oid, ev_type char, ev_enabled char, is_instead bool, ev_qual text, ev_action text",
    ),
    empty(
        PG,
        "pg_policy",
        "oid oid, polname name, polrelid oid, polcmd char, polpermissive bool, polroles text, polqual text, polwithcheck text",
    ),
    empty(
        PG,
        "pg_publication",
        "oid oid, pubname name, pubowner oid, puballtables bool, pubinsert bool, pubupdate bool, pubdelete bool, pubtruncate bool, pubviaroot bool",
    ),
    empty(
        PG,
        "pg_publication_rel",
        "oid oid, prpubid oid, prrelid oid, prqual text, prattrs text",
    ),
    empty(
        PG,
        "pg_publication_namespace",
        "oid oid, pnpubid oid, pnnspid oid",
    ),
    empty(
        PG,
        "pg_statistic_ext",
        "oid oid, stxrelid oid, stxname name, stxnamespace oid, stxowner oid, stxstattarget int4, stxkeys text, stxkind text, stxexprs text",
    ),
    empty(
        PG,
        "pg_range",
        "rngtypid oid, rngsubtype oid, rngmultitypid oid, rngcollation oid, rngsubopc oid, rngcanonical text, rngsubdiff text",
    ),
    empty(
        PG,
        "pg_enum",
        "oid oid, enumtypid oid, enumsortorder float4, enumlabel text",
    ),
    empty(
        PG,
        "pg_depend",
        "classid oid, objid oid, objsubid int4, refclassid oid, refobjid oid, refobjsubid int4, deptype char",
    ),
    empty(
        PG,
        "pg_extension",
        "oid oid, extname name, extowner oid, extnamespace oid, extrelocatable bool, extversion text, extconfig text, extcondition text",
    ),
    empty(
        PG,
        "pg_sequence",
        "seqrelid oid, seqtypid oid, seqstart int8, seqincrement int8, seqmax int8, seqmin int8, seqcache int8, seqcycle bool",
    ),
    empty(
        PG,
        "pg_foreign_table",
        "ftrelid oid, ftserver oid, ftoptions text",
    ),
    empty(
        PG,
        "pg_foreign_server",
        "oid oid, srvname name, srvowner oid, srvfdw oid, srvtype text, srvversion text, srvacl text, srvoptions text",
    ),
    empty(
        PG,
        "pg_partitioned_table",
        "partrelid oid, partstrat text, partnatts int2, partdefid oid, partattrs text, partclass text, partcollation text, partexprs text",
    ),
    empty(
        PG,
        "pg_auth_members",
        "roleid oid, member oid, grantor oid, admin_option bool",
    ),
    empty(
        PG,
        "pg_db_role_setting",
        "setdatabase oid, setrole oid, setconfig text",
    ),
    empty(
        PG,
        "pg_event_trigger",
        "oid oid, evtname name, evtevent name, evtowner oid, evtfoid oid, evtenabled text, evttags text",
    ),
    empty(
        PG,
        "pg_views",
        "schemaname name, viewname name, viewowner name, definition text",
    ),
    empty(
        PG,
        "pg_matviews",
        "schemaname name, matviewname name, matviewowner name, tablespace name, hasindexes bool, ispopulated bool, definition text",
    ),
];

fn namespaces(_: &Snapshot) -> Vec<Row> {
    namespace_names()
        .into_iter()
        .map(|(id, name)| vec![oid(id), text(name), oid(OWNER_OID), NULL])
        .collect()
}

fn category(data_type: DataType) -> &'static str {
    match data_type {
        DataType::Bool => "B",
        t if is_number(t) => "N",
        DataType::Text(_) => "S",
        DataType::Date | DataType::Timestamp | DataType::TimestampTz => "D",
        DataType::Interval => "T",
        _ => "U",
    }
}

fn type_row(id: i64, name: &str, namespace: i64, length: i16, category: &str) -> Row {
    let collation = if category == "S" { 100 } else { 0 };
    vec![
        oid(id),
        text(name),
        oid(namespace),
        oid(OWNER_OID),
        Value::Int2(length),
        Value::Bool((1..=8).contains(&length)),
        text("b"),
        text(category),
        NO,
        YES,
        text(","),
        oid(0),
        oid(0),
        oid(0),
        oid(0),
        text(format!("{name}in")),
        text(format!("{name}out")),
        text(format!("{name}recv")),
        text(format!("{name}send")),
        text("-"),
        text("-"),
        text("-"),
        text("i"),
        text("p"),
        NO,
        oid(0),
        int(-1),
        int(0),
        oid(collation),
        NULL,
        NULL,
        NULL,
    ]
}

fn types(_: &Snapshot) -> Vec<Row> {
    let mut rows: Vec<Row> = TYPES
        .iter()
        .map(|t| {
            let id = i64::from(t.oid());
            let namespace = if id < 16_384 {
                PG_CATALOG_OID
            } else {
                PUBLIC_OID
            };
            type_row(id, t.catalog_name(), namespace, t.typlen(), category(*t))
        })
        .collect();
    rows.push(type_row(18, "char", PG_CATALOG_OID, 1, "S"));
    rows.push(type_row(19, "name", PG_CATALOG_OID, 64, "S"));
    rows.push(type_row(26, "oid", PG_CATALOG_OID, 4, "N"));
    rows.push(type_row(1043, "varchar", PG_CATALOG_OID, -1, "S"));
    rows
}

/// The OID of an index or table method: PostgreSQL's where it has one.
pub(super) fn method_oid(name: &str) -> i64 {
    match name {
        "heap" => 2,
        "btree" => 403,
        other => {
            let place = CONTRACTS.iter().position(|c| c.method == other);
            place.map_or(0, |place| 14_000 + place as i64)
        }
    }
}

fn methods(_: &Snapshot) -> Vec<Row> {
    let row = |name: &str, kind: &str| {
        vec![
            oid(method_oid(name)),
            text(name),
            text(format!("{name}handler")),
            text(kind),
        ]
    };
    std::iter::once(row("heap", "t"))
        .chain(CONTRACTS.iter().map(|c| row(c.method, "i")))
        .collect()
}

fn databases(snapshot: &Snapshot) -> Vec<Row> {
    vec![vec![
        oid(5),
        text(&snapshot.session.database),
        oid(OWNER_OID),
        int(6),
        text("c"),
        NO,
        YES,
        int(-1),
        oid(0),
        oid(0),
        oid(1663),
        text("C"),
        text("C"),
        NULL,
        NULL,
        NULL,
    ]]
}

fn roles(snapshot: &Snapshot) -> Vec<Row> {
    vec![vec![
        text(&snapshot.session.user),
        YES,
        YES,
        YES,
        YES,
        YES,
        YES,
        int(-1),
        NULL,
        NULL,
        YES,
        NULL,
        oid(OWNER_OID),
    ]]
}

fn users(snapshot: &Snapshot) -> Vec<Row> {
    vec![vec![
        text(&snapshot.session.user),
        oid(OWNER_OID),
        YES,
        YES,
        YES,
        YES,
        NULL,
        NULL,
        NULL,
    ]]
}

fn settings(snapshot: &Snapshot) -> Vec<Row> {
    snapshot
        .catalog
        .settings()
        .into_iter()
        .map(|s| {
            vec![
                text(s.name),
                text(&s.value),
                NULL,
                text("Settings"),
                text(s.description),
                NULL,
                text("user"),
                text("string"),
                text("default"),
                NULL,
                NULL,
                NULL,
                text(&s.value),
                text(&s.value),
                NULL,
                NULL,
                NO,
            ]
        })
        .collect()
}

fn streams(snapshot: &Snapshot) -> Vec<Row> {
    let collections = snapshot.catalog.collections();
    let row = |stream: Arc<Stream>| {
        let collection = collections.iter().find(|c| c.id == stream.collection)?;
        Some(vec![
            text(&stream.name),
            text(&collection.name),
            Value::Int8(stream.retention_bytes as i64),
            Value::Int8(stream.created.0 as i64),
        ])
    };
    snapshot
        .catalog
        .streams()
        .into_iter()
        .filter_map(row)
        .collect()
}

fn collations(_: &Snapshot) -> Vec<Row> {
    [(100, "default"), (950, "C"), (951, "POSIX")]
        .into_iter()
        .map(|(id, name)| {
            vec![
                oid(id),
                text(name),
                oid(PG_CATALOG_OID),
                oid(OWNER_OID),
                text("c"),
                YES,
                int(-1),
                text("C"),
                text("C"),
                NULL,
                NULL,
            ]
        })
        .collect()
}

fn tablespaces(_: &Snapshot) -> Vec<Row> {
    vec![vec![
        oid(1663),
        text("pg_default"),
        oid(OWNER_OID),
        NULL,
        NULL,
    ]]
}
