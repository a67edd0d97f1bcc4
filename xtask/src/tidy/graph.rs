//! Who may import whom (law P1), from `cargo metadata` and `Cargo.lock`.
//!
//! Three kinds of rule: which crates of the workspace a crate may name, which foreign crates only
//! some may name, and which foreign crates must not be reached at all, not even through others.
//! Dependencies of tests count like any other, so a test cannot carry a plane into another one.

use super::Problem;
use super::tree::Tree;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

/// Each crate of the workspace and the crates of the workspace that it may name.
const ALLOWED: &[(&str, &[&str])] = &[
    ("nodedb-types", &[]),
    ("nodedb-bridge", &["nodedb-types"]),
    ("nodedb-data", &["nodedb-types", "nodedb-bridge"]),
    ("nodedb-event", &["nodedb-types", "nodedb-bridge"]),
    ("nodedb-query", &["nodedb-types", "nodedb-bridge"]),
    (
        "nodedb-control",
        &["nodedb-types", "nodedb-bridge", "nodedb-query"],
    ),
    ("nodedb-client", &["nodedb-types"]),
    (
        "nodedb-server",
        &[
            "nodedb-types",
            "nodedb-bridge",
            "nodedb-data",
            "nodedb-event",
            "nodedb-query",
            "nodedb-control",
            "nodedb-client",
        ],
    ),
    (
        "nodedb-cli",
        &["nodedb-types", "nodedb-client", "nodedb-server"],
    ),
    ("xtask", &[]),
];

/// Foreign crates (by prefix of the name) that only the listed crates may name.
const NAMED_ONLY_BY: &[(&str, &[&str])] = &[
    ("datafusion", &["nodedb-query"]),
    ("anyhow", &["nodedb-cli", "xtask"]),
    ("parquet", &["nodedb-cli"]),
];

/// Foreign crates (by prefix) that a crate must not reach: a core has no executor but its own, and
/// the crates below the query engine build without it.
const NOT_REACHED: &[(&str, &[&str])] = &[
    ("nodedb-types", &["datafusion", "sqlparser", "tokio"]),
    ("nodedb-bridge", &["datafusion", "sqlparser", "tokio"]),
    ("nodedb-data", &["datafusion", "sqlparser", "tokio"]),
    ("nodedb-event", &["datafusion", "sqlparser"]),
    ("nodedb-client", &["datafusion", "sqlparser"]),
];

/// Foreign crates of which the lock file must hold one version at most.
const ONE_VERSION: &[&str] = &["arrow", "sqlparser", "datafusion"];

/// Runs `cargo metadata` in `root`.
pub(crate) fn metadata(root: &Path) -> Result<Value> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let out = Command::new(cargo)
        .args(["metadata", "--format-version=1", "--locked"])
        .current_dir(root)
        .output()
        .context("cannot run cargo metadata")?;
    if !out.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&out.stderr));
    }
    Ok(serde_json::from_slice(&out.stdout)?)
}

/// The root file of every target in the workspace, as a path from the workspace's folder.
pub(crate) fn crate_roots(metadata: &Value) -> Result<Vec<String>> {
    let root = text(metadata, "workspace_root")?;
    let mut found = Vec::new();
    for package in own_packages(metadata)? {
        for target in array(package, "targets")? {
            let path = text(target, "src_path")?;
            let path = path.strip_prefix(root).unwrap_or(path);
            found.push(path.trim_start_matches('/').to_owned());
        }
    }
    Ok(found)
}

/// Checks the crate graph and the lock file.
pub(crate) fn check(metadata: &Value, tree: &Tree) -> Result<Vec<Problem>> {
    let mut problems = named(metadata)?;
    problems.extend(reached(metadata)?);
    if let Some(lock) = tree.get("Cargo.lock") {
        problems.extend(locked(&lock.text));
    }
    Ok(problems)
}

fn named(metadata: &Value) -> Result<Vec<Problem>> {
    let own: BTreeSet<&str> = own_packages(metadata)?
        .iter()
        .map(|p| text(p, "name"))
        .collect::<Result<_>>()?;
    let mut problems = Vec::new();
    for package in own_packages(metadata)? {
        let name = text(package, "name")?;
        let manifest = format!("{name}/Cargo.toml");
        let Some((_, allowed)) = ALLOWED.iter().find(|(n, _)| *n == name) else {
            problems.push(Problem::new(
                &manifest,
                0,
                format!("the crate `{name}` has no place in the crate graph"),
                "add it to ALLOWED in xtask/src/tidy/graph.rs and say in docs/ARCHITECTURE.md why it exists",
            ));
            continue;
        };
        for dependency in array(package, "dependencies")? {
            let other = text(dependency, "name")?;
            if own.contains(other) && !allowed.contains(&other) {
                problems.push(Problem::new(
                    &manifest,
                    0,
                    format!("`{name}` must not import `{other}` (law P1)"),
                    "declare what crosses as a type or port trait in nodedb-bridge and let nodedb-server plug it in",
                ));
            }
            let rule = NAMED_ONLY_BY.iter().find(|(p, _)| starts(other, p));
            if let Some((prefix, by)) = rule
                && !by.contains(&name)
            {
                problems.push(Problem::new(
                    &manifest,
                    0,
                    format!(
                        "`{name}` names `{other}`; only {} may name {prefix}",
                        by.join(" and ")
                    ),
                    "reach it through that crate's own types, or do without",
                ));
            }
        }
    }
    Ok(problems)
}

/// Follows normal and build dependencies as the resolver chose them. Test dependencies are left
/// out: proptest and others bring half of the ecosystem, and do not ship.
fn reached(metadata: &Value) -> Result<Vec<Problem>> {
    let mut names = BTreeMap::new();
    for package in array(metadata, "packages")? {
        names.insert(text(package, "id")?, text(package, "name")?);
    }
    let mut edges: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for node in array(&metadata["resolve"], "nodes")? {
        let mut to = Vec::new();
        for dep in array(node, "deps")? {
            let kinds = array(dep, "dep_kinds")?;
            if kinds.iter().any(|k| k["kind"] != "dev") {
                to.push(text(dep, "pkg")?);
            }
        }
        edges.insert(text(node, "id")?, to);
    }
    let mut problems = Vec::new();
    for package in own_packages(metadata)? {
        let name = text(package, "name")?;
        let Some((_, banned)) = NOT_REACHED.iter().find(|(n, _)| *n == name) else {
            continue;
        };
        for prefix in *banned {
            let hit = |id: &str| names.get(id).is_some_and(|n| starts(n, prefix));
            if let Some(path) = path_to(text(package, "id")?, &edges, hit) {
                let path: Vec<&str> = path.iter().map(|id| names[id]).collect();
                problems.push(Problem::new(
                    &format!("{name}/Cargo.toml"),
                    0,
                    format!("`{name}` reaches {prefix}: {}", path.join(" -> ")),
                    "drop the dependency or the feature that brings it",
                ));
            }
        }
    }
    Ok(problems)
}

/// The shortest path of package ids from `start` to one that `hit` accepts.
fn path_to<'a>(
    start: &'a str,
    edges: &BTreeMap<&'a str, Vec<&'a str>>,
    hit: impl Fn(&str) -> bool,
) -> Option<Vec<&'a str>> {
    let mut from: BTreeMap<&str, &str> = BTreeMap::from([(start, start)]);
    let mut queue = std::collections::VecDeque::from([start]);
    while let Some(at) = queue.pop_front() {
        if at != start && hit(at) {
            let mut path = vec![at];
            while path[path.len() - 1] != start {
                path.push(from[path[path.len() - 1]]);
            }
            path.reverse();
            return Some(path);
        }
        for to in edges.get(at).into_iter().flatten() {
            if !from.contains_key(to) {
                from.insert(to, at);
                queue.push_back(to);
            }
        }
    }
    None
}

fn locked(lock: &str) -> Vec<Problem> {
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut problems = Vec::new();
    let mut name = "";
    for (at, line) in lock.lines().enumerate() {
        let value = |key: &str| line.strip_prefix(key).map(|v| v.trim_matches('"'));
        if let Some(v) = value("name = ") {
            name = v;
        } else if let Some(v) = value("version = ") {
            versions.entry(name).or_default().push(v);
        } else if let Some(source) = value("source = ")
            && source != "registry+https://github.com/rust-lang/crates.io-index"
        {
            problems.push(Problem::new(
                "Cargo.lock",
                at + 1,
                format!("`{name}` comes from {source}"),
                "take every dependency from crates.io",
            ));
        }
    }
    for single in ONE_VERSION {
        let found = versions.get(single).map_or(&[][..], Vec::as_slice);
        if found.len() > 1 {
            problems.push(Problem::new(
                "Cargo.lock",
                0,
                format!("{} versions of {single}: {}", found.len(), found.join(", ")),
                "pin the dependency that brings the second one to a release that agrees",
            ));
        }
    }
    problems
}

/// `prefix` itself or one of its family (`datafusion-expr`).
fn starts(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

fn own_packages(metadata: &Value) -> Result<Vec<&Value>> {
    let members = array(metadata, "workspace_members")?;
    let packages = array(metadata, "packages")?;
    Ok(packages
        .iter()
        .filter(|p| members.contains(&p["id"]))
        .collect())
}

fn array<'a>(value: &'a Value, key: &str) -> Result<&'a Vec<Value>> {
    let found = value[key].as_array();
    found.with_context(|| format!("cargo metadata has no list `{key}`"))
}

fn text<'a>(value: &'a Value, key: &str) -> Result<&'a str> {
    let found = value[key].as_str();
    found.with_context(|| format!("cargo metadata has no text `{key}`"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Metadata of a workspace with these crates and direct dependencies.
    fn sample(own: &[(&str, &[&str])], foreign: &[(&str, &[&str])]) -> Value {
        let package = |(name, deps): &(&str, &[&str])| {
            let deps: Vec<Value> = deps.iter().map(|d| json!({"name": d})).collect();
            json!({"id": name, "name": name, "dependencies": deps,
                   "targets": [{"src_path": format!("/w/{name}/src/lib.rs")}]})
        };
        let node = |(name, deps): &(&str, &[&str])| {
            let deps: Vec<Value> = deps
                .iter()
                .map(|d| json!({"pkg": d, "dep_kinds": [{"kind": null}]}))
                .collect();
            json!({"id": name, "deps": deps})
        };
        let all = || own.iter().chain(foreign);
        json!({
            "workspace_root": "/w",
            "workspace_members": own.iter().map(|(n, _)| json!(n)).collect::<Vec<_>>(),
            "packages": all().map(package).collect::<Vec<_>>(),
            "resolve": {"nodes": all().map(node).collect::<Vec<_>>()},
        })
    }

    fn whats(metadata: &Value) -> Vec<String> {
        let found = check(metadata, &Tree::default()).unwrap();
        found.into_iter().map(|p| p.what).collect()
    }

    #[test]
    fn a_plane_must_not_import_another() {
        let good = sample(
            &[("nodedb-types", &[]), ("nodedb-bridge", &["nodedb-types"])],
            &[],
        );
        assert_eq!(whats(&good), Vec::<String>::new());
        let bad = sample(
            &[("nodedb-data", &[]), ("nodedb-event", &["nodedb-data"])],
            &[],
        );
        assert_eq!(
            whats(&bad),
            ["`nodedb-event` must not import `nodedb-data` (law P1)"]
        );
        assert!(whats(&sample(&[("nodedb-misc", &[])], &[]))[0].contains("no place"));
    }

    #[test]
    fn datafusion_is_named_by_one_crate_and_not_reached_by_the_cores() {
        let fusion: &[(&str, &[&str])] =
            &[("wrap", &["datafusion-expr"]), ("datafusion-expr", &[])];
        let named = sample(&[("nodedb-control", &["datafusion-expr"])], fusion);
        assert!(whats(&named)[0].contains("only nodedb-query may name datafusion"));
        let reached = sample(&[("nodedb-data", &["wrap"])], fusion);
        assert_eq!(
            whats(&reached),
            ["`nodedb-data` reaches datafusion: nodedb-data -> wrap -> datafusion-expr"]
        );
    }

    #[test]
    fn the_lock_file_holds_one_arrow_from_the_public_registry() {
        let entry = |name: &str, version: &str, source: &str| {
            format!(
                "[[package]]\nname = \"{name}\"\nversion = \"{version}\"\nsource = \"{source}\"\n"
            )
        };
        let public = "registry+https://github.com/rust-lang/crates.io-index";
        let good = entry("arrow", "59.3.0", public) + &entry("arrow-array", "59.3.0", public);
        assert_eq!(locked(&good), []);
        let two = good + &entry("arrow", "60.0.0", public);
        assert!(locked(&two)[0].what.contains("2 versions of arrow"));
        let foreign = entry("arrow", "59.3.0", "git+https://example.org/arrow");
        assert_eq!(locked(&foreign)[0].line, 4);
    }

    #[test]
    fn crate_roots_are_relative() {
        let metadata = sample(&[("nodedb-types", &[])], &[]);
        assert_eq!(crate_roots(&metadata).unwrap(), ["nodedb-types/src/lib.rs"]);
    }
}
