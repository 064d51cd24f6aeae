//! The pools that invented names come from.
//!
//! Invariant: every pool that answers come from holds at least 48 names, so a guess is right in at most about 2 % of
//! cases; and a name of one kind ends differently from most names of other kinds, as real names do.

use crate::random::Stream;

/// What a name belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The country itself.
    Country,
    /// A town.
    Town,
    /// A person.
    Person,
    /// A river.
    River,
    /// A dish of a town's kitchen.
    Dish,
    /// A festival.
    Festival,
    /// A fish of a lake.
    Fish,
    /// A ship.
    Ship,
    /// A bridge.
    Bridge,
    /// An inn.
    Inn,
    /// A lake.
    Lake,
    /// A guild.
    Guild,
    /// A school.
    School,
    /// An island.
    Island,
    /// A province.
    Province,
    /// A museum.
    Museum,
    /// A mountain.
    Peak,
    /// An animal, as the emblem of a guild.
    Animal,
    /// A thing made of some material, as the treasure of a museum.
    Treasure,
}

const FIRST: [&str; 64] = [
    "Bel", "Cor", "Dal", "Fen", "Gar", "Hol", "Ister", "Jar", "Kel", "Lor", "Mar", "Nor", "Osk", "Pel", "Quin", "Ros",
    "Sel", "Tor", "Ulm", "Var", "Wes", "Yar", "Zel", "Bran", "Cal", "Dun", "Esk", "Far", "Gren", "Hal", "Ing", "Jun",
    "Kor", "Lun", "Mil", "Nev", "Orl", "Pol", "Rav", "Sor", "Tam", "Urs", "Vil", "Wol", "Yel", "Zor", "Bor", "Cren",
    "Dor", "Elm", "Fal", "Gol", "Hem", "Ilv", "Kal", "Lem", "Mon", "Nar", "Olt", "Per", "Rum", "Sten", "Tul", "Ved",
];

const ANIMALS: [&str; 48] = [
    "heron", "otter", "badger", "falcon", "salmon", "beaver", "raven", "stag", "fox", "wolf", "bear", "crane", "swan",
    "hare", "boar", "lynx", "marten", "weasel", "owl", "eagle", "hawk", "magpie", "robin", "wren", "finch", "thrush",
    "dove", "goose", "duck", "pike", "trout", "carp", "eel", "crab", "toad", "newt", "viper", "beetle", "moth", "bee",
    "wasp", "spider", "goat", "ram", "bull", "horse", "donkey", "hound",
];

const MATERIALS: [&str; 16] = [
    "silver", "golden", "clay", "copper", "wooden", "glass", "stone", "bronze", "marble", "leather", "paper", "silk",
    "linen", "pearl", "bone", "tin",
];

const THINGS: [&str; 24] = [
    "bell", "crown", "drum", "cup", "lamp", "mask", "sword", "ring", "comb", "flute", "map", "book", "wheel", "chair",
    "bowl", "harp", "shield", "helmet", "coin", "key", "box", "mirror", "boat", "clock",
];

type Endings = [&'static str; 16];

const COUNTRY: [&str; 8] = ["avia", "onia", "landia", "eria", "urnia", "istan", "adora", "imark"];
const TOWN: Endings = [
    "stead", "ford", "wick", "ham", "bury", "ton", "gate", "haven", "field", "worth", "market", "minster", "cross",
    "well", "thorpe", "mouth",
];
const PERSON: Endings = [
    "ander", "iva", "emar", "olin", "essa", "urik", "anne", "ewald", "ina", "orius", "ette", "imund", "ora", "ustin",
    "elle", "arik",
];
const RIVER: Endings = [
    "een", "ava", "oder", "isk", "enna", "ural", "owy", "itz", "une", "arra", "illet", "osa", "eck", "ymer", "ubra",
    "onne",
];
const DISH: Endings = [
    "stew", "loaf", "cake", "soup", "pie", "broth", "bun", "roast", "curd", "dumpling", "pudding", "mash", "tart",
    "pickle", "sausage", "noodle",
];
const FESTIVAL: Endings = [
    "tide", "mas", "fair", "night", "feast", "dance", "parade", "song", "eve", "moon", "bonfire", "games", "revel",
    "wake", "blossom", "harvest",
];
const FISH: Endings = [
    "fin", "perch", "tail", "minnow", "gill", "bream", "scale", "roach", "eye", "char", "spine", "loach", "snout",
    "dace", "belly", "grayling",
];
const SHIP: Endings = [
    "wind", "star", "wave", "gull", "sail", "storm", "pearl", "arrow", "spray", "queen", "light", "runner", "foam",
    "dawn", "hope", "drifter",
];
const BRIDGE: Endings = [
    "span", "arch", "crossing", "pass", "way", "chain", "causeway", "pillar", "rope", "vault", "trestle", "link",
    "deck", "plank", "stride", "leap",
];
const INN: Endings = [
    "hearth", "barrel", "lantern", "table", "kettle", "pillow", "anchor", "tankard", "rest", "corner", "chimney",
    "saddle", "candle", "cellar", "bench", "stable",
];
const LAKE: Endings = [
    "mere", "tarn", "pool", "water", "loch", "basin", "deep", "pond", "shallow", "fjord", "lagoon", "reed", "glass",
    "marsh", "spring", "hollow",
];
const GUILD: Endings = [
    "weaver", "smith", "mason", "tanner", "cooper", "dyer", "baker", "carver", "glazier", "potter", "miller", "joiner",
    "tailor", "thatcher", "cutler", "brewer",
];
const SCHOOL: Endings = [
    "hall",
    "college",
    "academy",
    "court",
    "lodge",
    "house",
    "tower",
    "seminar",
    "cloister",
    "yard",
    "institute",
    "chapel",
    "library",
    "lyceum",
    "garden",
    "quad",
];
const ISLAND: Endings = [
    "holm", "sey", "skerry", "rock", "cay", "isle", "reef", "bar", "stack", "atoll", "sand", "cliff", "shore", "shoal",
    "ness", "islet",
];
const PROVINCE: Endings = [
    "shire", "reach", "vale", "march", "land", "moor", "down", "wold", "heath", "plain", "glen", "weald", "steppe",
    "fell", "dale", "forest",
];
const MUSEUM: Endings = [
    "gallery", "cabinet", "archive", "trove", "vitrine", "rotunda", "wing", "salon", "arcade", "pavilion", "atrium",
    "treasury", "annex", "chamber", "hoard", "display",
];
const PEAK: Endings = [
    "horn", "top", "peak", "spire", "crag", "tooth", "ridge", "dome", "needle", "crest", "summit", "wall", "butte",
    "knoll", "shoulder", "tor",
];

/// The endings of a kind's names; empty for kinds whose names are plain words.
const fn endings(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Country => &COUNTRY,
        Kind::Town => &TOWN,
        Kind::Person => &PERSON,
        Kind::River => &RIVER,
        Kind::Dish => &DISH,
        Kind::Festival => &FESTIVAL,
        Kind::Fish => &FISH,
        Kind::Ship => &SHIP,
        Kind::Bridge => &BRIDGE,
        Kind::Inn => &INN,
        Kind::Lake => &LAKE,
        Kind::Guild => &GUILD,
        Kind::School => &SCHOOL,
        Kind::Island => &ISLAND,
        Kind::Province => &PROVINCE,
        Kind::Museum => &MUSEUM,
        Kind::Peak => &PEAK,
        Kind::Animal | Kind::Treasure => &[],
    }
}

/// How many different names a kind has.
pub const fn pool_size(kind: Kind) -> usize {
    match kind {
        Kind::Animal => ANIMALS.len(),
        Kind::Treasure => MATERIALS.len() * THINGS.len(),
        _ => FIRST.len() * endings(kind).len(),
    }
}

/// The name with number `index` (taken modulo the pool's size).
pub fn name(kind: Kind, index: usize) -> String {
    match kind {
        Kind::Animal => ANIMALS[index % ANIMALS.len()].to_owned(),
        Kind::Treasure => {
            format!("{} {}", MATERIALS[index / THINGS.len() % MATERIALS.len()], THINGS[index % THINGS.len()])
        }
        _ => {
            let endings = endings(kind);
            format!("{}{}", FIRST[index / endings.len() % FIRST.len()], endings[index % endings.len()])
        }
    }
}

/// One name of a kind.
pub fn one(kind: Kind, stream: &mut Stream) -> String {
    name(kind, stream.below(pool_size(kind)))
}

/// `count` names of one kind, none twice while the pool lasts.
pub fn draw(kind: Kind, count: usize, stream: &mut Stream) -> Vec<String> {
    let mut order: Vec<usize> = (0..pool_size(kind)).collect();
    stream.shuffle(&mut order);
    order.into_iter().cycle().take(count).map(|index| name(kind, index)).collect()
}

#[cfg(test)]
mod tests {
    use super::{Kind, draw, name, pool_size};
    use crate::random::Stream;
    use std::collections::BTreeSet;

    const ANSWER_KINDS: [Kind; 9] = [
        Kind::Town,
        Kind::Person,
        Kind::River,
        Kind::Dish,
        Kind::Festival,
        Kind::Fish,
        Kind::Animal,
        Kind::Treasure,
        Kind::Province,
    ];

    #[test]
    fn pools_are_too_large_to_guess_from() {
        for kind in ANSWER_KINDS {
            let names: BTreeSet<String> = (0..pool_size(kind)).map(|index| name(kind, index)).collect();
            assert_eq!(names.len(), pool_size(kind), "{kind:?} repeats a name");
            assert!(names.len() >= 48, "{kind:?} has only {} names", names.len());
        }
    }

    #[test]
    fn a_draw_does_not_repeat_names() {
        let names = draw(Kind::Animal, 48, &mut Stream::new(5, "names"));
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), 48);
    }
}
