//! Rows that explain themselves: all content of a row follows from its `request_id`, so any reader can check every
//! byte of any row it meets without remembering who wrote it.

use serde_json::json;

use crate::cell::{Cell, Moment, decimal};

/// Words, names and traps: scripts of the world, four-byte characters, joined emoji, and everything a
/// careless layer would take for SQL.
const SCRAPS: [&str; 24] = [
    "harbour",
    "Straße",
    "crème brûlée",
    "голубь",
    "夕焼け",
    "사진",
    "صورة",
    "तस्वीर",
    "📷",
    "👩‍👩‍👧‍👦",
    "🇮🇸",
    "e\u{301}",
    "it's",
    "\"quoted\"",
    "back\\slash",
    "100% -- not a comment",
    "/* nor this */",
    "a;b",
    "what?",
    "#1",
    "tab\there",
    "line\nbreak",
    "\u{1d538}\u{1d539}",
    "`tick`",
];
const TAGS: [&str; 16] = [
    "sea",
    "sky",
    "Sky",
    "night",
    "naïve",
    "cat 🐈",
    "夕焼け",
    "портрет",
    "it's",
    "macro",
    "snow",
    "2024",
    "b/w",
    "100%",
    "back\\slash",
    "e\u{301}",
];

/// The names of the purses of each person, as the schema has them.
pub(crate) const PURSES: [&str; 3] = ["main", "tips", "escrow"];

/// A small fixed generator: the same text gives the same numbers in every version of the program.
pub(crate) struct Seeded(u64);

impl Seeded {
    /// Seeds from a text (FNV-1a).
    pub(crate) fn from_text(text: &str) -> Self {
        let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
        Seeded(hash)
    }

    /// The next number (splitmix64).
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is above zero.
    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        u32::try_from(self.next() % u64::from(bound)).unwrap_or_default()
    }

    fn byte_below(&mut self, bound: u8) -> u8 {
        u8::try_from(self.below(u32::from(bound))).unwrap_or_default()
    }

    fn pick<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        let place = self.next() % choices.len() as u64;
        choices[usize::try_from(place).unwrap_or_default()]
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.below(100) < percent
    }

    fn text(&mut self, words_max: u32) -> String {
        let words = 1 + self.below(words_max);
        (0..words).map(|_| self.pick(&SCRAPS)).collect::<Vec<_>>().join(" ")
    }

    /// Every byte value has its turn: a run that starts anywhere and walks by an odd step.
    fn bytes(&mut self, len_max: u32) -> Vec<u8> {
        let (start, step) = (self.next() as u8, self.next() as u8 | 1);
        (0..self.below(len_max + 1)).map(|place| start.wrapping_add(step.wrapping_mul(place as u8))).collect()
    }

    fn members(&mut self, names: &[&str]) -> Cell {
        let chosen = self.next();
        let kept =
            names.iter().enumerate().filter(|(place, _)| chosen >> place & 1 == 1).map(|(_, name)| *name);
        Cell::Text(kept.collect::<Vec<_>>().join(","))
    }

    fn date(&mut self) -> (u16, u8, u8) {
        let year = 1990 + u16::from(self.byte_below(36));
        (year, 1 + self.byte_below(12), 1 + self.byte_below(28))
    }

    /// A moment with fractions down to `unit` microseconds; never in the small hours, where clocks are changed.
    fn moment(&mut self, unit: u32) -> Moment {
        let time = (8 + self.byte_below(12), self.byte_below(60), self.byte_below(60));
        Moment { date: self.date(), time, micros: self.below(1_000_000 / unit) * unit }
    }

    fn maybe(&mut self, percent: u32, make: impl FnOnce(&mut Self) -> Cell) -> Cell {
        if self.chance(percent) { make(self) } else { Cell::Null }
    }

    fn document(&mut self) -> Cell {
        Cell::Json(json!({
            "lens": self.pick(&["35mm", "50mm f/1.8", "макро", "📷"]),
            "iso": self.below(6400),
            "stops": f64::from(self.below(64)) / 8.0,
            "note": self.text(3),
            "nested": {"on": self.chance(50), "none": null, "list": [self.below(9), "x'y", -1]},
        }))
    }
}

/// A table whose rows are made from a request id.
pub(crate) struct Table {
    pub(crate) name: &'static str,
    /// The column whose value the server (or a sequence) gives.
    pub(crate) id: Option<&'static str>,
    /// Columns the writer chooses.
    pub(crate) given: &'static [&'static str],
    /// Columns that follow from the request id.
    pub(crate) derived: &'static [&'static str],
    /// Columns that are read but not inserted.
    pub(crate) extra: &'static [&'static str],
    pub(crate) derive: fn(&str) -> Vec<Cell>,
}

pub(crate) static USERS: Table = Table {
    name: "users",
    id: Some("user_id"),
    given: &[],
    derived: &[
        "email",
        "name",
        "plan",
        "interests",
        "settings",
        "avatar",
        "flags",
        "balance",
        "karma",
        "joined",
        "first_year",
        "quiet_from",
    ],
    extra: &["visits", "visit_id", "last_seen"],
    derive: user_cells,
};

pub(crate) static PHOTOS: Table = Table {
    name: "photos",
    id: Some("photo_id"),
    given: &["user_id", "title"],
    derived: &[
        "caption",
        "exif",
        "thumb",
        "width",
        "height",
        "bytes",
        "fingerprint",
        "latitude",
        "longitude",
        "exposure",
        "price",
        "visibility",
        "rights",
        "flags",
        "taken",
        "uploaded",
        "clip",
    ],
    extra: &["edits", "pixels"],
    derive: photo_cells,
};

pub(crate) static COMMENTS: Table = Table {
    name: "comments",
    id: Some("comment_id"),
    given: &["user_id", "photo_id", "author_id"],
    derived: &["body", "mood", "written"],
    extra: &[],
    derive: comment_cells,
};

pub(crate) static ALBUMS: Table = Table {
    name: "albums",
    id: Some("album_id"),
    given: &["user_id", "size"],
    derived: &["title", "opened", "cover"],
    extra: &[],
    derive: album_cells,
};

pub(crate) static FAVOURITES: Table = Table {
    name: "favourites",
    id: None,
    given: &["user_id", "photo_id", "owner_id"],
    derived: &["since"],
    extra: &[],
    derive: favourite_cells,
};

pub(crate) static LEDGER: Table = Table {
    name: "ledger",
    id: Some("entry_id"),
    given: &["user_id", "purse", "amount"],
    derived: &["seal", "booked"],
    extra: &[],
    derive: ledger_cells,
};

pub(crate) static GROUPS: Table = Table {
    name: "photo_groups",
    id: Some("group_id"),
    given: &[],
    derived: &["name", "about", "founded"],
    extra: &[],
    derive: group_cells,
};

pub(crate) static MEMBERS: Table = Table {
    name: "group_members",
    id: None,
    given: &["group_id", "user_id"],
    derived: &["role", "joined"],
    extra: &[],
    derive: member_cells,
};

/// The email address of the person a sign-up request makes.
pub(crate) fn email_of(request: &str) -> String {
    format!("{request}@photos.example")
}

/// What a person owns in all, in cents; it stays the same whatever is moved between the purses.
pub(crate) fn wealth_of(request: &str) -> i64 {
    i64::from(Seeded::from_text(&format!("wealth {request}")).below(1_000_000))
}

/// The title a photo is uploaded with.
pub(crate) fn title_of(request: &str) -> String {
    Seeded::from_text(&format!("title {request}")).text(4)
}

/// The size in bytes that a photo claims to have.
pub(crate) fn bytes_of(request: &str) -> u32 {
    Seeded::from_text(&format!("bytes {request}")).below(20_000_000)
}

/// The tags of a photo, in the order of the table's own collation.
pub(crate) fn tags_of(request: &str) -> Vec<&'static str> {
    let chosen = Seeded::from_text(&format!("tags {request}")).next();
    // Two masks leave about four tags of sixteen, and none for one photo in a hundred.
    let mut tags: Vec<_> = TAGS
        .iter()
        .enumerate()
        .filter(|(place, _)| (chosen & chosen >> 16) >> place & 1 == 1)
        .map(|(_, tag)| *tag)
        .collect();
    tags.sort_unstable();
    tags
}

fn user_cells(request: &str) -> Vec<Cell> {
    let mut seeded = Seeded::from_text(request);
    let (year, month, day) = seeded.date();
    vec![
        Cell::Text(email_of(request)),
        Cell::Text(seeded.text(3)),
        Cell::Text(seeded.pick(&["free", "plus", "pro"]).into()),
        seeded.members(&["portrait", "street", "nature", "night", "macro", "film"]),
        seeded.maybe(80, Seeded::document),
        seeded.maybe(70, |seeded| Cell::Bytes(seeded.bytes(700))),
        Cell::Bits(u64::from(seeded.below(256))),
        Cell::Decimal(decimal(wealth_of(request))),
        seeded.maybe(80, |seeded| Cell::Double(f64::from(seeded.below(2_000_000)) / 1000.0 - 1000.0)),
        Cell::Date(year, month, day),
        seeded.maybe(50, |seeded| Cell::Int(i64::from(1990 + seeded.below(36)))),
        seeded.maybe(50, |seeded| Cell::Time((i64::from(seeded.below(172_800_000)) - 86_400_000) * 1000)),
    ]
}

fn photo_cells(request: &str) -> Vec<Cell> {
    let mut seeded = Seeded::from_text(request);
    vec![
        seeded.maybe(60, |seeded| Cell::Text(seeded.text(12))),
        seeded.maybe(70, Seeded::document),
        Cell::Bytes(seeded.bytes(300)),
        Cell::UInt(u64::from(seeded.below(65_536))),
        Cell::UInt(u64::from(seeded.below(65_536))),
        Cell::UInt(u64::from(bytes_of(request))),
        Cell::UInt(seeded.next()),
        seeded.maybe(50, |seeded| Cell::Double(f64::from(seeded.below(180_000_000)) / 1e6 - 90.0)),
        seeded.maybe(50, |seeded| Cell::Double(f64::from(seeded.below(360_000_000)) / 1e6 - 180.0)),
        // Sixteenths below a hundred print in six digits, which is all the text protocol gives of a FLOAT.
        seeded.maybe(60, |seeded| {
            Cell::Float(f32::from(u16::try_from(seeded.below(1600)).unwrap_or(0)) / 16.0)
        }),
        seeded.maybe(40, |seeded| {
            Cell::Decimal(format!("-{}.{:03}", 1 + seeded.below(9_999_998), seeded.below(1000)))
        }),
        Cell::Text(seeded.pick(&["private", "friends", "public"]).into()),
        seeded.members(&["print", "share", "remix"]),
        Cell::Bits(u64::from(seeded.below(4096))),
        seeded.maybe(90, |seeded| Cell::DateTime(seeded.moment(1))),
        Cell::DateTime(seeded.moment(1000)),
        seeded.maybe(20, |seeded| Cell::Time(i64::from(seeded.below(2_000_000_000)) * 3 - 1_000_000_000)),
    ]
}

fn comment_cells(request: &str) -> Vec<Cell> {
    let mut seeded = Seeded::from_text(request);
    vec![
        Cell::Text(seeded.text(20)),
        seeded.maybe(50, |seeded| Cell::Text(seeded.pick(&["joy", "awe", "envy"]).into())),
        Cell::DateTime(seeded.moment(1)),
    ]
}

fn album_cells(request: &str) -> Vec<Cell> {
    let mut seeded = Seeded::from_text(request);
    let (year, month, day) = seeded.date();
    vec![
        Cell::Text(seeded.text(4)),
        seeded.maybe(70, |_| Cell::Date(year, month, day)),
        seeded.maybe(60, |seeded| Cell::Bytes(seeded.bytes(200))),
    ]
}

fn favourite_cells(request: &str) -> Vec<Cell> {
    vec![Cell::DateTime(Seeded::from_text(request).moment(1000))]
}

fn ledger_cells(request: &str) -> Vec<Cell> {
    let mut seeded = Seeded::from_text(request);
    let seal = [seeded.next().to_be_bytes(), seeded.next().to_be_bytes()].concat();
    vec![Cell::Bytes(seal), Cell::DateTime(seeded.moment(1))]
}

fn group_cells(request: &str) -> Vec<Cell> {
    let mut seeded = Seeded::from_text(request);
    let (year, month, day) = seeded.date();
    vec![
        Cell::Text(seeded.text(4)),
        seeded.maybe(70, |seeded| Cell::Text(seeded.text(20))),
        seeded.maybe(80, |_| Cell::Date(year, month, day)),
    ]
}

fn member_cells(request: &str) -> Vec<Cell> {
    let mut seeded = Seeded::from_text(request);
    vec![Cell::Text(seeded.pick(&["member", "moderator"]).into()), Cell::DateTime(seeded.moment(1000))]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_request_makes_the_same_row() {
        for table in [&USERS, &PHOTOS, &COMMENTS, &ALBUMS, &FAVOURITES, &LEDGER, &GROUPS, &MEMBERS] {
            let cells = (table.derive)("r1-2-3");
            assert_eq!(cells, (table.derive)("r1-2-3"), "{}", table.name);
            assert_eq!(cells.len(), table.derived.len(), "{}", table.name);
            assert_ne!(cells, (table.derive)("r1-2-4"), "{}", table.name);
        }
    }

    #[test]
    fn blobs_show_every_byte_value() {
        let mut seen = [false; 256];
        for number in 0..64 {
            let mut seeded = Seeded::from_text(&number.to_string());
            seeded.bytes(300).into_iter().for_each(|byte| seen[usize::from(byte)] = true);
        }
        assert!(seen.iter().all(|byte| *byte));
    }
}
