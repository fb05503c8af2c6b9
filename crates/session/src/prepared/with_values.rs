//! SET with parameters: usher has to know what is set, so that their values are written into the text.

use usher_sql::effects::{self, Assignment, Set};
use usher_sql::{Literal, LiteralKind, Mode};
use usher_wire::caps::Caps;
use usher_wire::sqlerr::{ErrorId, Failure};
use usher_wire::stmt::{Execute, Param, ParamType};

use super::{Prepared, with_long};
use crate::query::{Text, packet};
use crate::session::{Served, Session, Stop, Turn};
use crate::text_prepare::escape;

impl Session {
    /// Executes the text with the values of its parameters in it.
    pub(super) async fn execute_with_values(
        &mut self,
        prepared: &mut Prepared,
        raw: &[u8],
        joined: Option<&[u8]>,
        turn: Turn,
    ) -> Served {
        let text = self.text_with_values(prepared, raw, joined)?;
        let mut literals = Vec::new();
        let digest = usher_sql::digest(&text, self.mode, &mut literals);
        let packets = packet(&text);
        let statement = Text { text: &text, packets: &packets, digest: &digest, literals: &literals };
        self.statement(statement, turn).await
    }

    fn text_with_values(
        &self,
        prepared: &mut Prepared,
        raw: &[u8],
        joined: Option<&[u8]>,
    ) -> Result<Vec<u8>, Stop> {
        let attributes = self.client.caps.has(Caps::QUERY_ATTRIBUTES);
        let numbers: Vec<u16> = prepared.long.iter().map(|(number, _)| *number).collect();
        let payload = joined.or_else(|| raw.get(4..)).unwrap_or_default();
        let execute = Execute::parse(payload, prepared.params, &prepared.types, &numbers, attributes)?;
        let params: Vec<(ParamType, Param<'_>)> = execute
            .params()
            .enumerate()
            .map(|(n, (ty, param))| (ty, with_long(param, n, &prepared.long)))
            .collect();
        // A user variable takes the type of its value; a system variable wants a plain number.
        let keeps_types = matches!(
            effects::parse(&prepared.text, self.mode),
            Ok(Some(Set::Assignments(all)))
                if all.iter().all(|assignment| matches!(assignment, Assignment::UserVar { .. }))
        );
        let place = |literal: &Literal| match literal.kind {
            LiteralKind::Param(index) => params.get(usize::from(index)).map(|param| (literal.span(), param)),
            _ => None,
        };
        let replacements: Vec<_> = prepared
            .literals
            .iter()
            .filter_map(place)
            .map(|(span, (ty, param))| (span, literal(*ty, *param, keeps_types, self.mode)))
            .collect();
        let mut text = Vec::new();
        usher_sql::splice(&prepared.text, &replacements, &mut text)
            .map_err(|error| Failure::new(ErrorId::Bug).note(error.to_string()))?;
        let mut types = Vec::new();
        execute.remember_types(&mut types);
        if !types.is_empty() {
            prepared.types = types;
        }
        Ok(text)
    }
}

/// A parameter as it would be written in a text.
fn literal(ty: ParamType, param: Param<'_>, keeps_types: bool, mode: Mode) -> Vec<u8> {
    match param {
        Param::Null | Param::Long => b"NULL".to_vec(),
        // Apart from a minus in front.
        Param::Int(value @ ..0) => format!(" {value}").into_bytes(),
        Param::Int(value) => value.to_string().into_bytes(),
        Param::UInt(value) if keeps_types => format!("CAST({value} AS UNSIGNED)").into_bytes(),
        Param::UInt(value) => value.to_string().into_bytes(),
        Param::Float(value) => format!("{:e}", f64::from(value)).into_bytes(),
        Param::Double(value) => format!("{value:e}").into_bytes(),
        Param::Date { year, month, day, hour, minute, second, micro } => {
            let date = format!("{year:04}-{month:02}-{day:02}");
            let text = match ty.code {
                ParamType::DATE => format!("DATE'{date}'"),
                _ => format!("TIMESTAMP'{date} {hour:02}:{minute:02}:{second:02}.{micro:06}'"),
            };
            text.into_bytes()
        }
        Param::Time { negative, days, hour, minute, second, micro } => {
            let sign = if negative { "-" } else { "" };
            let hours = u64::from(days) * 24 + u64::from(hour);
            format!("TIME'{sign}{hours:02}:{minute:02}:{second:02}.{micro:06}'").into_bytes()
        }
        Param::Bytes(bytes) => match ty.code {
            ParamType::DECIMAL | ParamType::NEWDECIMAL if is_decimal(bytes) => bytes.to_vec(),
            ParamType::TINY_BLOB..=ParamType::BLOB | ParamType::BIT | ParamType::GEOMETRY => {
                let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                format!("x'{hex}'").into_bytes()
            }
            _ => {
                let mut quoted = vec![b'\''];
                escape(bytes, mode, &mut quoted);
                quoted.push(b'\'');
                quoted
            }
        },
    }
}

fn is_decimal(bytes: &[u8]) -> bool {
    let digits = bytes.strip_prefix(b"-").unwrap_or(bytes);
    let points = digits.iter().filter(|byte| **byte == b'.').count();
    digits.iter().any(u8::is_ascii_digit)
        && points <= 1
        && digits.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_with_their_types() {
        let written = |code: u8, param: Param<'_>, keeps| {
            let literal = literal(ParamType::new(code), param, keeps, Mode::default());
            String::from_utf8(literal).unwrap_or_default()
        };
        assert_eq!(written(ParamType::LONGLONG, Param::UInt(7), false), "7");
        assert_eq!(
            written(ParamType::LONGLONG, Param::UInt(u64::MAX), true),
            "CAST(18446744073709551615 AS UNSIGNED)"
        );
        assert_eq!(written(ParamType::DOUBLE, Param::Double(-0.5), true), "-5e-1");
        assert_eq!(written(ParamType::VAR_STRING, Param::Bytes(b"a'\\"), true), r"'a''\\'");
        assert_eq!(written(ParamType::BLOB, Param::Bytes(b"\x00\xff"), true), "x'00ff'");
        assert_eq!(written(ParamType::NEWDECIMAL, Param::Bytes(b"-1.50"), true), "-1.50");
        assert_eq!(written(ParamType::NEWDECIMAL, Param::Bytes(b"1 OR 1"), true), "'1 OR 1'");
        assert_eq!(written(ParamType::NULL, Param::Null, true), "NULL");
        let (negative, days, hour, minute, second, micro) = (true, 1, 2, 3, 4, 5);
        let time = Param::Time { negative, days, hour, minute, second, micro };
        assert_eq!(written(ParamType::TIME, time, true), "TIME'-26:03:04.000005'");
    }
}
