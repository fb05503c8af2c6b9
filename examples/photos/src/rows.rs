//! The statements that write and read the self-explaining rows of [`crate::content`], and the check of what came back.

use mysql_async::{Row, Value};

use crate::{
    cell::{integer, text},
    content::{PHOTOS, Table, title_of},
};

/// A row that has been read and found to be what its request id says.
#[derive(Debug)]
pub(crate) struct Stored {
    /// The generated id, 0 for a table without one.
    pub(crate) id: i64,
    /// The columns that the writer chose, in the table's order.
    pub(crate) given: Vec<Value>,
    pub(crate) request: String,
    /// The columns that are read but not inserted.
    pub(crate) extra: Vec<Value>,
}

/// One INSERT of one or many rows; each row is what the writer gives plus its request id.
pub(crate) fn insert(table: &Table, rows: &[(Vec<Value>, String)]) -> (String, Vec<Value>) {
    let columns: Vec<&str> =
        table.given.iter().chain(&["request_id"]).chain(table.derived).copied().collect();
    let one = format!("({})", vec!["?"; columns.len()].join(", "));
    let values = vec![one; rows.len()].join(", ");
    let sql = format!("INSERT INTO {} ({}) VALUES {values}", table.name, columns.join(", "));
    let mut params = Vec::with_capacity(columns.len() * rows.len());
    for (given, request) in rows {
        params.extend(given.iter().cloned());
        params.push(Value::from(request));
        params.extend((table.derive)(request).iter().map(|cell| cell.param()));
    }
    (sql, params)
}

/// One SELECT of all the columns that [`check`] looks at; `condition` is all that follows FROM and the name.
pub(crate) fn select(table: &Table, condition: &str) -> String {
    let columns: Vec<&str> = table
        .id
        .iter()
        .chain(table.given)
        .chain(&["request_id"])
        .chain(table.derived)
        .chain(table.extra)
        .copied()
        .collect();
    format!("SELECT {} FROM {} {condition}", columns.join(", "), table.name)
}

/// Compares each column of a row made by [`select`] with what its request id says it must be.
///
/// # Errors
/// The first column that differs, named with both values.
pub(crate) fn check(table: &Table, row: Row) -> Result<Stored, String> {
    let mut values = row.unwrap().into_iter();
    let mut next = || values.next().unwrap_or(Value::NULL);
    let id = match table.id {
        Some(column) => integer(&next())
            .and_then(|id| i64::try_from(id).ok())
            .ok_or_else(|| format!("{}.{column} is no whole number", table.name))?,
        None => 0,
    };
    let given: Vec<Value> = table.given.iter().map(|_| next()).collect();
    let request = text(&next());
    for (column, cell) in table.derived.iter().zip((table.derive)(&request)) {
        let found = next();
        if !cell.matches(&found) {
            return Err(format!(
                "{}.{column} of the row written by {request} is {} and should be {cell:?}",
                table.name,
                found.as_sql(false)
            ));
        }
    }
    let extra: Vec<Value> = table.extra.iter().map(|_| next()).collect();
    let stored = Stored { id, given, request, extra };
    if std::ptr::eq(table, &PHOTOS) {
        check_photo(&stored)?;
    }
    Ok(stored)
}

/// The title as uploaded, or as an edit of this photo left it; the width times the height in the generated column.
fn check_photo(photo: &Stored) -> Result<(), String> {
    let title = photo.given.get(1).map(text).unwrap_or_default();
    let edits = photo.extra.first().and_then(integer);
    let expected = title_of(&photo.request);
    let fits = if edits == Some(0) { title == expected } else { title.starts_with(EDITED) };
    if !fits {
        return Err(format!("photos.title of {} after {edits:?} edits is {title:?}", photo.request));
    }
    let cells = (PHOTOS.derive)(&photo.request);
    let side = |place: usize| cells.get(place).and_then(|cell| integer(&cell.param()));
    let pixels = side(3).zip(side(4)).map(|(width, height)| width * height);
    if photo.extra.get(1).and_then(integer) != pixels {
        return Err(format!(
            "photos.pixels of {} is {:?} and should be {pixels:?}",
            photo.request,
            photo.extra.get(1)
        ));
    }
    Ok(())
}

/// What every edited title starts with.
pub(crate) const EDITED: &str = "✎ ";

/// Writes the parameters into the text of a statement, for sending it plain.
pub(crate) fn plain(sql: &str, params: &[Value]) -> String {
    let mut text = String::with_capacity(sql.len() + params.len() * 8);
    let mut params = params.iter();
    for (place, part) in sql.split('?').enumerate() {
        if place > 0 {
            match params.next() {
                // A plain 0.1 is a DECIMAL to the server; the exponent makes it the DOUBLE it is.
                Some(Value::Double(number)) => text.push_str(&format!("{number:e}")),
                Some(value) => text.push_str(&value.as_sql(false)),
                None => text.push('?'),
            }
        }
        text.push_str(part);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::COMMENTS;

    #[test]
    fn an_insert_has_a_parameter_for_each_mark() {
        let rows = [(vec![Value::Int(1); 3], "a".to_string()), (vec![Value::Int(2); 3], "b".to_string())];
        let (sql, params) = insert(&COMMENTS, &rows);
        assert_eq!(sql.matches('?').count(), params.len());
        assert!(!plain(&sql, &params).contains('\u{0}'));
    }

    #[test]
    fn plain_text_keeps_doubles_and_question_marks() {
        let params = [Value::Double(0.1), Value::from("what?"), Value::Bytes(vec![0xff, 0])];
        assert_eq!(plain("f(?, ?, ?)", &params), "f(1e-1, 'what?', 0xFF00)");
    }
}
