//! Plans: any text is planned or refused in a moment, the plan fits every statement of its digest, and what is to be
//! written into a statement lies in it.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use usher_fuzz::Input;
use usher_sql::{
    Catalog, KeyType, KeyValue, Kind, Mode, Plan, Sharded, Table, Target, TextRule, ddl, digest, effects,
    explain_route, find_calls, find_variables, insert_points, plan, prepare, splice, unnamed_columns,
};

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let choices = input.byte();
    let mode = usher_fuzz::mode(choices);
    let schema = (choices & 16 == 0).then_some("app");
    let text = input.rest();
    let mut literals = Vec::new();
    let found = digest(text, mode, &mut literals);
    let plan = plan(text, schema, mode, &CATALOG);
    assert_eq!(usize::from(plan.params), usize::from(found.params));
    assert_eq!(plan.literals as usize, literals.len());
    ordinals(&plan, literals.len());
    inserted(&plan, text, mode);
    explained(text, mode);
    let _ = ddl::parse(text, schema, mode);
    let _ = prepare::parse(text, mode);
    if let Ok(Some(set)) = effects::parse(text, mode) {
        spans_of(&set, text);
    }
    for (span, _) in find_variables(text, mode, "last_insert_id") {
        assert!(span.end <= text.len());
    }
    for span in find_calls(text, mode, "FOUND_ROWS").into_iter().chain(unnamed_columns(text, mode)) {
        assert!(span.start < span.end && span.end <= text.len());
    }
});

static CATALOG: LazyLock<Catalog> = LazyLock::new(|| {
    let mut catalog = Catalog::new(1, false);
    let photos = |sequence: Option<&str>| Sharded {
        key_column: "user_id".into(),
        key_type: KeyType::BIGINT,
        sequence: sequence.map(Into::into),
        columns: ["id", "user_id", "title"].map(Into::into).to_vec(),
    };
    catalog.insert("app", "photos", Table::Sharded(photos(Some("id"))));
    catalog.insert("app", "users", Table::Sharded(photos(Some("user_id"))));
    catalog.insert_creating("app", "likes", Table::Sharded(photos(None)));
    let rule = TextRule { fold_case: true, pad: true, ascii_only: true };
    catalog.insert("app", "pages", Table::Sharded(Sharded { key_type: KeyType::Text(rule), ..photos(None) }));
    catalog.insert("app", "colours", Table::Reference { columns: vec!["id".into()] });
    catalog.insert("app", "logs", Table::Unsharded);
    catalog
});

/// A plan names literals that are there.
fn ordinals(plan: &Plan, literals: usize) {
    let Target::User { sources } = &plan.target else { return };
    assert!(!sources.is_empty() || plan.insert.is_some());
    for source in sources {
        if let KeyValue::Literal { ordinal, .. } = source.value {
            assert!((ordinal as usize) < literals);
        }
    }
}

/// Ids go into an INSERT at places that are in order; with them it is planned as before.
fn inserted(plan: &Plan, text: &[u8], mode: Mode) {
    let Some(shape) = &plan.insert else { return };
    let Some(points) = insert_points(text, mode, shape) else { return };
    assert!(points.values.len() <= shape.rows as usize);
    let mut changes: Vec<_> =
        points.column.into_iter().map(|(at, name)| (at..at, name.into_bytes())).collect();
    for point in points.values {
        changes.push((point.span, format!("{}77{}", point.before, point.after).into_bytes()));
    }
    let mut written = Vec::new();
    splice(text, &changes, &mut written).expect("places in order");
    let mut literals = Vec::new();
    digest(&written, mode, &mut literals);
    let again = usher_sql::plan(&written, Some("app"), mode, &CATALOG);
    assert_eq!(again.kind, plan.kind, "{}", String::from_utf8_lossy(&written));
}

fn explained(text: &[u8], mode: Mode) {
    if let Some(asked) = explain_route(text, mode) {
        let inner = usher_sql::plan(&text[asked.statements], Some("app"), mode, &CATALOG);
        assert!(!matches!(inner.kind, Kind::Empty));
    }
}

fn spans_of(set: &effects::Set, text: &[u8]) {
    let assignments = match set {
        effects::Set::Assignments(assignments) => assignments,
        effects::Set::Statement { assignments, statement } => {
            assert!(*statement < text.len());
            assignments
        }
        effects::Set::Account => return,
    };
    for assignment in assignments {
        if let effects::Assignment::Variable { value, .. } | effects::Assignment::UserVar { value, .. } =
            assignment
        {
            assert!(value.span.start <= value.span.end && value.span.end <= text.len());
        }
    }
}
