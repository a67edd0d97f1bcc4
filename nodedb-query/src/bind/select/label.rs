//! Names of result columns that the statement does not name, as PostgreSQL chooses them.

use super::*;

/// The name PostgreSQL gives to a column without one.
pub(in crate::bind) fn output_name(e: &ast::Expr) -> String {
    use ast::Expr as E;
    strong_name(e).unwrap_or_else(|| match e {
        E::Cast {
            expr, data_type, ..
        } => strong_name(expr).unwrap_or_else(|| type_label(data_type)),
        E::TypedString(typed) => type_label(&typed.data_type),
        E::Interval(_) => "interval".to_owned(),
        E::Value(v) if matches!(v.value, ast::Value::Boolean(_)) => "bool".to_owned(),
        E::Case { else_result, .. } => else_result
            .as_deref()
            .and_then(strong_name)
            .unwrap_or_else(|| "case".to_owned()),
        E::Nested(inner) => output_name(inner),
        _ => "?column?".to_owned(),
    })
}

fn strong_name(e: &ast::Expr) -> Option<String> {
    use ast::Expr as E;
    Some(match e {
        E::Identifier(ident) => fold_case(ident),
        E::CompoundIdentifier(parts) => fold_case(parts.last()?),
        E::Nested(inner) | E::Collate { expr: inner, .. } => return strong_name(inner),
        E::Cast { expr, .. } => return strong_name(expr),
        E::Function(f) => schema_and_name(&f.name).ok()?.1,
        E::Case { else_result, .. } => return strong_name(else_result.as_deref()?),
        E::Exists { .. } => "exists".to_owned(),
        E::Extract { .. } => "extract".to_owned(),
        E::Position { .. } => "position".to_owned(),
        E::Substring {
            shorthand: true, ..
        } => "substr".to_owned(),
        E::Substring { .. } => "substring".to_owned(),
        E::Trim { trim_where, .. } => match trim_where {
            Some(ast::TrimWhereField::Leading) => "ltrim".to_owned(),
            Some(ast::TrimWhereField::Trailing) => "rtrim".to_owned(),
            _ => "btrim".to_owned(),
        },
        E::Overlay { .. } => "overlay".to_owned(),
        E::Ceil { .. } => "ceil".to_owned(),
        E::Floor { .. } => "floor".to_owned(),
        E::AtTimeZone { .. } => "timezone".to_owned(),
        E::Array(_) => "array".to_owned(),
        E::Subquery(query) => match &*query.body {
            ast::SetExpr::Select(select) => match select.projection.first()? {
                ast::SelectItem::UnnamedExpr(e) => return Some(output_name(e)),
                ast::SelectItem::ExprWithAlias { alias, .. } => fold_case(alias),
                _ => return None,
            },
            _ => return None,
        },
        _ => return None,
    })
}

fn type_label(declared: &ast::DataType) -> String {
    match crate::bind::special::data_type(declared) {
        Ok(data_type) => data_type.catalog_name().to_owned(),
        Err(_) => declared.to_string().to_lowercase(),
    }
}
