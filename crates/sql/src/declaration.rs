//! What a table's comment says about sharding: `usher:sharded key=user_id sequence=id`.

/// How a table is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Declaration {
    /// `usher:sharded`.
    Sharded {
        /// `key=`: the column that holds the user.
        key: String,
        /// `sequence=`: the column whose ids come from the global sequence.
        sequence: Option<String>,
        /// `parent=`: the table whose rows this one's belong to.
        parent: Option<String>,
    },
    /// `usher:reference`.
    Reference,
}

/// A comment that begins as a declaration and is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeclarationError {
    /// Neither sharded nor reference.
    #[error("table comment: usher:{0} is unknown; write usher:sharded key=<column> or usher:reference")]
    Kind(String),
    /// `usher:sharded` alone.
    #[error("table comment: usher:sharded needs key=<column>")]
    NoKey,
    /// A misspelt option.
    #[error("table comment: option {0} is unknown; there are key=, sequence= and parent=")]
    Option(String),
    /// `key=` and nothing.
    #[error("table comment: option {0} has no value; write {0}=<name> without spaces")]
    NoValue(String),
    /// The same option again.
    #[error("table comment: option {0} is there twice")]
    Twice(String),
    /// `usher sharded`.
    #[error("table comment: write usher:{0}, with a colon")]
    NoColon(String),
}

impl Declaration {
    /// Reads a table comment. The declaration may stand behind other text, and ends at a `;` or the comment's end.
    ///
    /// # Errors
    /// Where the word `usher:` is there and what follows is not understood.
    pub fn parse(comment: &str) -> Result<Option<Self>, DeclarationError> {
        let lower = comment.to_ascii_lowercase();
        let starts_word = |at: usize| at == 0 || !lower.as_bytes()[at - 1].is_ascii_alphanumeric();
        let Some(at) = lower.match_indices("usher:").map(|(at, _)| at).find(|at| starts_word(*at)) else {
            return missing_colon(&lower);
        };
        let body = comment[at + "usher:".len()..].split(';').next().unwrap_or_default();
        let mut words = body.split_whitespace();
        match words.next().unwrap_or_default().to_ascii_lowercase().as_str() {
            "sharded" => sharded(words).map(Some),
            "reference" => match words.next() {
                None => Ok(Some(Self::Reference)),
                Some(option) => Err(DeclarationError::Option(option.to_owned())),
            },
            other => Err(DeclarationError::Kind(other.to_owned())),
        }
    }
}

fn missing_colon(lower: &str) -> Result<Option<Declaration>, DeclarationError> {
    let mut words = lower.split_whitespace();
    match (words.next(), words.next()) {
        (Some("usher"), Some(kind @ ("sharded" | "reference"))) => {
            Err(DeclarationError::NoColon(kind.to_owned()))
        }
        _ => Ok(None),
    }
}

fn sharded<'w>(words: impl Iterator<Item = &'w str>) -> Result<Declaration, DeclarationError> {
    let (mut key, mut sequence, mut parent) = (None, None, None);
    for word in words {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        let place = match name.to_ascii_lowercase().as_str() {
            "key" => &mut key,
            "sequence" => &mut sequence,
            "parent" => &mut parent,
            _ => return Err(DeclarationError::Option(name.to_owned())),
        };
        let value = value.trim_matches('`');
        if value.is_empty() {
            return Err(DeclarationError::NoValue(name.to_owned()));
        }
        if place.replace(value.to_owned()).is_some() {
            return Err(DeclarationError::Twice(name.to_owned()));
        }
    }
    let key = key.ok_or(DeclarationError::NoKey)?;
    Ok(Declaration::Sharded { key, sequence, parent })
}
