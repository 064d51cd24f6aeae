//! The closed list of files that a base may have.
//!
//! Invariant: a name that has a [`Kind`] is one plain part of a path, in ASCII, without separators.

/// What the bounds of a small file leave room for: chat templates and tables of added tokens reach some hundred kB.
const SMALL_MAX_BYTES: u64 = 4 << 20;
/// The largest `tokenizer.json`, as the engine reads it.
const TOKENIZER_MAX_BYTES: u64 = 64 << 20;
/// Most shards, as the engine reads them.
const SHARDS_MAX: u32 = 512;

pub(super) const CONFIG: &str = "config.json";
pub(super) const TOKENIZER: &str = "tokenizer.json";
pub(super) const SINGLE: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// Files that say where texts begin and end and how conversations are written. Each is optional.
pub(super) const EXTRAS: [&str; 5] = [
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
];

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Config,
    Tokenizer,
    Extra,
    Index,
    Weights,
    /// One of several files with weights: its number, and how many there are.
    Shard(u32, u32),
    Gguf,
}

impl Kind {
    /// What a file of that name is; nothing for names outside the list.
    pub(super) fn of(name: &str) -> Option<Self> {
        match name {
            CONFIG => Some(Self::Config),
            TOKENIZER => Some(Self::Tokenizer),
            SINGLE => Some(Self::Weights),
            INDEX => Some(Self::Index),
            super::GGUF => Some(Self::Gguf),
            extra if EXTRAS.contains(&extra) => Some(Self::Extra),
            other => shard(other),
        }
    }

    pub(super) const fn max_bytes(self) -> u64 {
        match self {
            Self::Config | Self::Extra | Self::Index => SMALL_MAX_BYTES,
            Self::Tokenizer => TOKENIZER_MAX_BYTES,
            Self::Weights | Self::Shard(..) | Self::Gguf => super::BASE_MAX_BYTES,
        }
    }
}

/// `model-00001-of-00003.safetensors`, as `transformers` names shards.
fn shard(name: &str) -> Option<Kind> {
    let (number, count) = name.strip_prefix("model-")?.strip_suffix(".safetensors")?.split_once("-of-")?;
    let five = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    if !five(number) || !five(count) {
        return None;
    }
    let (number, count) = (number.parse().ok()?, count.parse().ok()?);
    ((1..=count).contains(&number) && count <= SHARDS_MAX).then_some(Kind::Shard(number, count))
}

/// Whether sorted names make exactly one model; says what is missing.
pub(super) fn check_set(names: &[&str]) -> Result<(), String> {
    let has = |name: &str| names.contains(&name);
    let shards: Vec<(u32, u32)> = names
        .iter()
        .filter_map(|name| match Kind::of(name) {
            Some(Kind::Shard(number, count)) => Some((number, count)),
            _ => None,
        })
        .collect();
    if has(super::GGUF) {
        let alone = names.iter().all(|name| matches!(*name, super::GGUF | TOKENIZER));
        return if alone { Ok(()) } else { Err("a GGUF file stands alone, or beside tokenizer.json".into()) };
    }
    for needed in [CONFIG, TOKENIZER] {
        if !has(needed) {
            return Err(format!("{needed} is missing"));
        }
    }
    match (has(SINGLE), has(INDEX), shards.first()) {
        (true, false, None) => Ok(()),
        (false, true, Some((_, count))) => check_shards(&shards, *count),
        (false, false, None) => Err(format!("the weights are missing: {SINGLE}, or its shards with {INDEX}")),
        (false, true, None) => Err("every shard is missing".into()),
        (false, false, Some(_)) => Err(format!("{INDEX} is missing")),
        (true, ..) => Err(format!("{SINGLE} beside other weights")),
    }
}

fn check_shards(shards: &[(u32, u32)], count: u32) -> Result<(), String> {
    let missing = (1..=count).find(|number| !shards.contains(&(*number, count)));
    match missing {
        Some(number) => Err(format!("model-{number:05}-of-{count:05}.safetensors is missing")),
        None if shards.len() == usize::try_from(count).unwrap_or(usize::MAX) => Ok(()),
        None => Err("shards of two models".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_the_list_have_a_kind() {
        assert_eq!(Kind::of("model-00002-of-00003.safetensors"), Some(Kind::Shard(2, 3)));
        for name in [
            "",
            ".",
            "..",
            "../config.json",
            "a/config.json",
            "CONFIG.JSON",
            "model-00004-of-00003.safetensors",
            "model-00000-of-00003.safetensors",
            "model-1-of-3.safetensors",
            "model-00001-of-99999.safetensors",
            "model-+0001-of-00003.safetensors",
            "pytorch_model.bin",
            "config.json\0",
        ] {
            assert_eq!(Kind::of(name), None, "{name:?}");
        }
    }
}
