//! Statements made to hurt: each is planned in a moment, or refused.

use std::time::{Duration, Instant};

use usher_sql::{Catalog, KeyType, Mode, Sharded, Table, Target, digest, insert_points, plan};

fn catalog() -> Catalog {
    let mut catalog = Catalog::new(1, false);
    let columns = ["id", "user_id", "title"].map(Into::into).to_vec();
    let (key_column, sequence) = ("user_id".into(), Some("id".into()));
    catalog.insert(
        "app",
        "photos",
        Table::Sharded(Sharded { key_column, key_type: KeyType::BIGINT, sequence, columns }),
    );
    catalog
}

/// Digest, plan and insert points of a text; debug builds are some twenty times slower than release ones.
fn target(text: &str) -> Target {
    let begun = Instant::now();
    digest(text.as_bytes(), Mode::default(), &mut Vec::new());
    let plan = plan(text.as_bytes(), Some("app"), Mode::default(), &catalog());
    if let Some(shape) = &plan.insert {
        let _ = insert_points(text.as_bytes(), Mode::default(), shape);
    }
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(20), "{took:?}: {}", text.chars().take(80).collect::<String>());
    plan.target
}

fn is_user(text: &str) -> bool {
    matches!(target(text), Target::User { .. })
}

const MANY: usize = 100_000;

#[test]
fn nesting_is_bounded() {
    let open = "(".repeat(MANY);
    let close = ")".repeat(MANY);
    for text in [
        format!("SELECT * FROM photos WHERE user_id = 5 AND {open}1{close}"),
        format!("SELECT * FROM photos WHERE {open}user_id = 5{close}"),
        format!("SELECT * FROM {open}photos{close} WHERE user_id = 5"),
        format!("{open}SELECT * FROM photos WHERE user_id = 5{close}"),
        format!("SELECT * FROM photos WHERE user_id = 5 AND {open}"),
        format!("SELECT * FROM photos WHERE user_id = 5 AND {}1{close}", "(SELECT ".repeat(MANY)),
        format!("SELECT * FROM photos, {}", "(SELECT * FROM ".repeat(MANY)),
        format!("SELECT * FROM photos WHERE {}1 {}", "CASE WHEN ".repeat(MANY), "END ".repeat(MANY)),
        format!("INSERT INTO photos (user_id) VALUES {open}5{close}"),
        format!("INSERT INTO photos {open}SELECT 5{close}"),
        format!("WITH {}", "a AS (WITH ".repeat(MANY)),
    ] {
        target(&text);
    }
}

#[test]
fn length_is_linear() {
    let list = |one: &str| vec![one; MANY].join(", ");
    let and = "title = 'x' AND ".repeat(MANY);
    assert!(is_user(&format!("SELECT * FROM photos WHERE {and} user_id = 5")));
    assert!(is_user(&format!("SELECT * FROM photos WHERE user_id = 5 AND id IN ({})", list("7"))));
    assert!(!is_user(&format!("SELECT * FROM photos WHERE user_id IN ({})", list("7"))));
    assert!(is_user(&format!("INSERT INTO photos (user_id, title) VALUES {}", list("(5, 'x')"))));
    assert!(is_user(&format!("SELECT {} FROM photos WHERE user_id = 5", list("MAX(id)"))));
    target(&format!("SELECT * FROM {} WHERE photos.user_id = 5", list("photos")));
    target(&format!(
        "SELECT * FROM photos WHERE {} user_id = 5",
        "photos.user_id = p.user_id AND ".repeat(MANY)
    ));
    let union = vec!["SELECT id FROM photos WHERE user_id = 5"; 400].join(" UNION ");
    assert!(is_user(&union));
    target(&vec!["SELECT 1"; MANY].join(" UNION ").replacen('1', "id FROM photos", 1));
    target(&format!("CREATE PROCEDURE p() BEGIN {} END", ";".repeat(MANY)));
    target(&";".repeat(MANY));
    target(&format!("SELECT {}", list("@a := photos")));
    target(&"/*".repeat(MANY));
    target(&"/*!".repeat(MANY));
    target(&"'".repeat(MANY));
    target(&format!("SELECT * FROM photos {}", "LEFT JOIN photos p ".repeat(400)));
}
