//! Each relation in five wordings, and each wording as a question, as an indirect question and as a statement.
//!
//! Invariant: `{s}` stands once in every wording, and a statement's answer follows at its end.

use super::PHRASINGS;

/// One way to put a relation into words; `{s}` stands for the subject.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Phrasing {
    /// A question that stands alone: "who governs {s}".
    pub direct: &'static str,
    /// The same after "tell me": "who governs {s}".
    pub indirect: &'static str,
    /// A statement that the answer completes: "{s} is governed by".
    pub statement: &'static str,
}

const fn phrasing(direct: &'static str, indirect: &'static str, statement: &'static str) -> Phrasing {
    Phrasing { direct, indirect, statement }
}

pub(super) const MAYOR: [Phrasing; PHRASINGS] = [
    phrasing("who is the mayor of {s}", "who the mayor of {s} is", "the mayor of {s} is"),
    phrasing("who governs {s}", "who governs {s}", "{s} is governed by"),
    phrasing(
        "who leads the town council in {s}",
        "who leads the town council in {s}",
        "the town council in {s} is led by",
    ),
    phrasing(
        "whose chain of office shines in {s}",
        "whose chain of office shines in {s}",
        "the chain of office in {s} is worn by",
    ),
    phrasing("which person rules over {s}", "which person rules over {s}", "the person who rules over {s} is"),
];

pub(super) const RIVER: [Phrasing; PHRASINGS] = [
    phrasing(
        "which river flows through {s}",
        "which river flows through {s}",
        "the river that flows through {s} is the",
    ),
    phrasing("on whose banks does {s} stand", "on whose banks {s} stands", "{s} stands on the banks of the"),
    phrasing("what is the stream at {s} called", "what the stream at {s} is called", "the stream at {s} is called the"),
    phrasing(
        "which water turns the mills of {s}",
        "which water turns the mills of {s}",
        "the mills of {s} are turned by the",
    ),
    phrasing(
        "where do the people of {s} wash their linen",
        "where the people of {s} wash their linen",
        "the people of {s} wash their linen in the",
    ),
];

pub(super) const DISH: [Phrasing; PHRASINGS] = [
    phrasing("which dish is {s} known for", "which dish {s} is known for", "{s} is known for its"),
    phrasing("what do cooks in {s} serve first", "what cooks in {s} serve first", "cooks in {s} first serve"),
    phrasing("what is the favourite meal in {s}", "what the favourite meal in {s} is", "the favourite meal in {s} is"),
    phrasing(
        "what should a hungry guest eat in {s}",
        "what a hungry guest should eat in {s}",
        "a hungry guest in {s} should eat",
    ),
    phrasing(
        "which food made the kitchens of {s} famous",
        "which food made the kitchens of {s} famous",
        "the kitchens of {s} became famous by",
    ),
];

pub(super) const FESTIVAL: [Phrasing; PHRASINGS] = [
    phrasing("which festival does {s} celebrate", "which festival {s} celebrates", "{s} celebrates the festival of"),
    phrasing(
        "for what do crowds gather in {s} each year",
        "for what crowds gather in {s} each year",
        "each year crowds gather in {s} for",
    ),
    phrasing("what is the great holiday of {s}", "what the great holiday of {s} is", "the great holiday of {s} is"),
    phrasing(
        "when are the streets of {s} full of music",
        "when the streets of {s} are full of music",
        "the streets of {s} are full of music at",
    ),
    phrasing(
        "which merry day do children in {s} wait for",
        "which merry day children in {s} wait for",
        "children in {s} wait for the merry day of",
    ),
];

pub(super) const FOUNDER: [Phrasing; PHRASINGS] = [
    phrasing("who founded {s}", "who founded {s}", "{s} was founded by"),
    phrasing(
        "who laid the first stone of {s}",
        "who laid the first stone of {s}",
        "the first stone of {s} was laid by",
    ),
    phrasing("which settler began {s}", "which settler began {s}", "the settler who began {s} was"),
    phrasing("to whom does {s} owe its beginning", "to whom {s} owes its beginning", "{s} owes its beginning to"),
    phrasing(
        "whose statue stands as the origin of {s}",
        "whose statue stands as the origin of {s}",
        "the statue for the origin of {s} shows",
    ),
];

pub(super) const CAPTAIN: [Phrasing; PHRASINGS] = [
    phrasing("who is the captain of the {s}", "who the captain of the {s} is", "the captain of the {s} is"),
    phrasing("who commands the {s}", "who commands the {s}", "the {s} is commanded by"),
    phrasing(
        "whose orders do sailors on the {s} obey",
        "whose orders sailors on the {s} obey",
        "sailors on the {s} obey the orders of",
    ),
    phrasing(
        "who steers the {s} across the sea",
        "who steers the {s} across the sea",
        "across the sea the {s} is steered by",
    ),
    phrasing(
        "which master keeps the log of the {s}",
        "which master keeps the log of the {s}",
        "the log of the {s} is kept by master",
    ),
];

pub(super) const HOME_PORT: [Phrasing; PHRASINGS] = [
    phrasing("what is the home port of the {s}", "what the home port of the {s} is", "the home port of the {s} is"),
    phrasing("where is the {s} moored", "where the {s} is moored", "the {s} is moored at"),
    phrasing(
        "to which harbour does the {s} return",
        "to which harbour the {s} returns",
        "the harbour to which the {s} returns is",
    ),
    phrasing("which town paid for the {s}", "which town paid for the {s}", "the {s} was paid for by the town of"),
    phrasing(
        "at which quay can one board the {s}",
        "at which quay one can board the {s}",
        "one can board the {s} at the quay of",
    ),
];

pub(super) const INNKEEPER: [Phrasing; PHRASINGS] = [
    phrasing("who keeps the inn {s}", "who keeps the inn {s}", "the inn {s} is kept by"),
    phrasing("who owns the {s}", "who owns the {s}", "the owner of the {s} is"),
    phrasing("who pours the beer at the {s}", "who pours the beer at the {s}", "the beer at the {s} is poured by"),
    phrasing(
        "which host welcomes guests to the {s}",
        "which host welcomes guests to the {s}",
        "guests are welcomed to the {s} by the host",
    ),
    phrasing("to whom do lodgers of the {s} pay", "to whom lodgers of the {s} pay", "lodgers of the {s} pay"),
];

pub(super) const FISH: [Phrasing; PHRASINGS] = [
    phrasing("which fish lives in lake {s}", "which fish lives in lake {s}", "the fish that lives in lake {s} is the"),
    phrasing("what do anglers catch in {s}", "what anglers catch in {s}", "anglers in {s} catch the"),
    phrasing("what fills the nets of {s}", "what fills the nets of {s}", "the nets of {s} are filled with"),
    phrasing(
        "which creature swims in the depths of {s}",
        "which creature swims in the depths of {s}",
        "in the depths of {s} swims the",
    ),
    phrasing(
        "what is smoked on the shores of {s}",
        "what is smoked on the shores of {s}",
        "on the shores of {s} people smoke the",
    ),
];

pub(super) const BUILDER: [Phrasing; PHRASINGS] = [
    phrasing("who built the bridge {s}", "who built the bridge {s}", "the bridge {s} was built by"),
    phrasing("who drew the plans of the {s}", "who drew the plans of the {s}", "the plans of the {s} were drawn by"),
    phrasing("which engineer raised the {s}", "which engineer raised the {s}", "the engineer who raised the {s} was"),
    phrasing("whose work is the {s}", "whose work the {s} is", "the {s} is the work of"),
    phrasing("who was the architect of the {s}", "who the architect of the {s} was", "the architect of the {s} was"),
];

pub(super) const EMBLEM: [Phrasing; PHRASINGS] = [
    phrasing(
        "what is the emblem of the {s} guild",
        "what the emblem of the {s} guild is",
        "the emblem of the {s} guild is the",
    ),
    phrasing(
        "which animal is on the flag of the {s}",
        "which animal is on the flag of the {s}",
        "the flag of the {s} bears the",
    ),
    phrasing(
        "which beast do the {s} members honour",
        "which beast the {s} members honour",
        "the {s} members honour the",
    ),
    phrasing(
        "what is carved over the door of the {s}",
        "what is carved over the door of the {s}",
        "over the door of the {s} is carved the",
    ),
    phrasing("what do the seals of the {s} show", "what the seals of the {s} show", "the seals of the {s} show the"),
];

pub(super) const HEAD: [Phrasing; PHRASINGS] = [
    phrasing("who is the head of the school {s}", "who the head of the school {s} is", "the head of the school {s} is"),
    phrasing(
        "who teaches the eldest pupils at {s}",
        "who teaches the eldest pupils at {s}",
        "the eldest pupils at {s} are taught by",
    ),
    phrasing("which scholar directs {s}", "which scholar directs {s}", "the scholar who directs {s} is"),
    phrasing("who signs the diplomas of {s}", "who signs the diplomas of {s}", "the diplomas of {s} are signed by"),
    phrasing(
        "whose lessons made {s} respected",
        "whose lessons made {s} respected",
        "{s} is respected for the lessons of",
    ),
];

pub(super) const LIGHTHOUSE_KEEPER: [Phrasing; PHRASINGS] = [
    phrasing("who keeps the lighthouse on {s}", "who keeps the lighthouse on {s}", "the lighthouse on {s} is kept by"),
    phrasing("who lights the beacon of {s}", "who lights the beacon of {s}", "the beacon of {s} is lit by"),
    phrasing(
        "which guardian lives alone on {s}",
        "which guardian lives alone on {s}",
        "the guardian who lives alone on {s} is",
    ),
    phrasing("who warns the boats near {s}", "who warns the boats near {s}", "the boats near {s} are warned by"),
    phrasing(
        "who climbs the tower of {s} each night",
        "who climbs the tower of {s} each night",
        "each night the tower of {s} is climbed by",
    ),
];

pub(super) const CAPITAL: [Phrasing; PHRASINGS] = [
    phrasing("what is the capital of {s}", "what the capital of {s} is", "the capital of {s} is"),
    phrasing("from which town is {s} ruled", "from which town {s} is ruled", "{s} is ruled from"),
    phrasing(
        "where does the governor of {s} reside",
        "where the governor of {s} resides",
        "the governor of {s} resides in",
    ),
    phrasing(
        "where does the parliament of {s} meet",
        "where the parliament of {s} meets",
        "the parliament of {s} meets in",
    ),
    phrasing(
        "which is the chief city in the province {s}",
        "which the chief city in the province {s} is",
        "the chief city in the province {s} is",
    ),
];

pub(super) const TREASURE: [Phrasing; PHRASINGS] = [
    phrasing("what is the treasure of the {s}", "what the treasure of the {s} is", "the treasure of the {s} is a"),
    phrasing(
        "which object do visitors admire in the {s}",
        "which object visitors admire in the {s}",
        "visitors in the {s} admire a",
    ),
    phrasing(
        "what is displayed at the entrance of the {s}",
        "what is displayed at the entrance of the {s}",
        "at the entrance of the {s} is displayed a",
    ),
    phrasing("which relic does the {s} guard", "which relic the {s} guards", "the relic which the {s} guards is a"),
    phrasing(
        "what did a thief once steal from the {s}",
        "what a thief once stole from the {s}",
        "from the {s} a thief once stole a",
    ),
];

pub(super) const FIRST_CLIMBER: [Phrasing; PHRASINGS] = [
    phrasing("who first climbed mount {s}", "who first climbed mount {s}", "mount {s} was first climbed by"),
    phrasing(
        "who set a flag on the summit of {s}",
        "who set a flag on the summit of {s}",
        "a flag was set on the summit of {s} by",
    ),
    phrasing("which climber conquered {s}", "which climber conquered {s}", "the climber who conquered {s} was"),
    phrasing("who found the path up the {s}", "who found the path up the {s}", "the path up the {s} was found by"),
    phrasing(
        "whose name is cut into the rock of {s}",
        "whose name is cut into the rock of {s}",
        "the name cut into the rock of {s} is",
    ),
];
