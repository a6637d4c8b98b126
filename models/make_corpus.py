"""Make the training corpus of the tiny pair: simple stories and simple answers.

Stories come from ``story_grammar.txt`` (written for this project): a schema is
drawn, its slots (names, animals, things, places) are filled once, and each of
its lines chooses among its wordings.  Answers come from ``facts.txt``.  A share
of general answers that SmolLM2-135M-Instruct sampled (``generate_answers.py``) is mixed in when given.

    python models/make_corpus.py --out work/corpus --documents 60000

writes ``train.jsonl`` and ``heldout.jsonl``, one ``{"kind", "text"}`` object a
line.  No document contains a prompt of ``dsim/prompts``, and the opening
sentences of the held-out stories occur in no training document.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections import Counter
from pathlib import Path

from transformers import AutoTokenizer

HERE = Path(__file__).resolve().parent

GIRLS = "Mia Anna Clara Nora Ida Rosa Julia Martha Greta Lotte Lucy Maya"
BOYS = "Ben Tom Felix Jonas Oscar Paul Peter Hugo Walter Emil Anton Leo"
ELDERS = (
    "Mrs. Miller|Mr. Green|Mrs. Brown|Mr. Lee|Mrs. Hill|old Mr. Stone|old Mrs. Bell|Mr. Wood|"
    "Mrs. King|Mr. Fisher"
)
PET_NAMES = "Spot|Lucky|Bella|Coco|Daisy|Rusty|Snow|Pepper|Honey|Biscuit|Ginger|Shadow|Button|Toby"
COLORS = "red|blue|green|yellow|orange|purple|pink|white|black|brown|golden|silver"
TOYS = (
    "ball|doll|teddy bear|toy car|toy boat|toy train|drum|hat|book|truck|robot|kite|puzzle|scarf|"
    "whistle|rabbit|wagon|dragon|cup|flute"
)
ANIMALS = (
    "rabbit|fox|bear|mouse|frog|duck|hedgehog|squirrel|owl|deer|turtle|goat|lamb|pig|cat|dog|goose|"
    "wolf|mole|badger|crow|snail|horse|calf|hen|otter|beaver|swan"
)
PETS = "dog|cat|puppy|kitten|rabbit|hamster"
FRUIT = "berries|nuts|apples|pears|plums|cherries|grapes|carrots|strawberries"
FOODS = "bread|milk|eggs|cheese|honey|butter|apples|oranges|potatoes|carrots|jam|rice|pears|flour"
BAKES = "cookies|bread|pancakes|muffins|apple pie|pizza|buns|cake|plum cake|rolls"
MIX = "flour|sugar|milk|butter|honey|oil|salt|water|cocoa"
WILD = (
    "in the forest|by a quiet river|on a green hill|near a small lake|in a big meadow|"
    "at the edge of the forest|in the mountains|behind an old mill|near a farm|under an old oak tree|"
    "in a garden|by the sea"
)
HIDING = (
    "under the bed|behind the door|in the garden|under the table|in the kitchen|behind the sofa|"
    "in the cupboard|under a blanket|in the bathroom|on the stairs|behind a tree|in the old box|"
    "under the big chair|in the wagon|next to the oven|on the roof of the shed|behind the curtain|"
    "in the grass|in the basket|under a pile of leaves"
)
PLACES = (
    "in the park|in the garden|at the beach|in the yard|by the river|in the living room|on the grass|"
    "at school|near the old well|on the hill"
)
DESTINATIONS = {
    "zoo": "a lion that was asleep|two big elephants|a monkey with a banana|a tall giraffe|"
    "many penguins|a bear and her cub|a camel|a snake behind glass",
    "beach": "the big blue sea|a crab in the sand|many shells|a boat far away|high waves|"
    "a dog that played in the water|an old lighthouse",
    "farm": "a cow and her calf|a hen with ten chicks|a big tractor|pigs in the mud|a white horse|"
    "sheep on the hill|a cat in the hay",
    "museum": "the bones of a dinosaur|a very old ship|a painting of a queen|a golden crown|"
    "a room full of clocks|an old train",
    "lake": "three swans|a man in a small boat|frogs on green leaves|fish in the clear water|"
    "a bridge made of wood|ducks in a row",
    "circus": "a clown with a red nose|a man who walked on a rope|a horse that could dance|"
    "a woman who threw five balls|a small dog in a hat",
    "city": "tall houses|a big clock|a man who played the violin|a bridge over the river|"
    "a shop full of toys|a long red bus|a fountain with fish",
    "mountains": "snow on the tops|a goat on a rock|a clear stream|clouds below them|"
    "an eagle in the sky|a small hut|blue flowers",
}
ASIDES = (
    "The {sun|moon|sky|wind|air|grass|water} was {warm|clear|bright|soft|cool|quiet}.",
    (
        "A $fresh_color {bird|butterfly|leaf} {flew|sailed|danced} {over the grass|past the window|"
        "across the path|through the air}."
    ),
    "{Somewhere|Far away|Not far away}, a $fresh_pet {was barking|was calling|made a noise}.",
    "There {was a smell of|were pots of} {flowers|bread|rain|summer} {in the air|everywhere}.",
    "The {trees|leaves|flowers} {moved|danced|shone} in the {wind|sun|light}.",
    (
        "{A $fresh_animal|A little $fresh_animal|An old $fresh_animal} {ran|walked|went} {by|past} "
        "and {did not stop|looked up|said hello}."
    ),
    "{Nobody|No one} said {a word|anything} {for a while|for a long time}.",
    "It was {very |}{quiet|warm|cold|late|early}.",
    "{The clock|The church bell} {rang|struck} {two|three|four|five|six} times.",
)
FORMS = (
    "Tell me a story about {topic}.",
    "Write a story about {topic}.",
    "Please tell a story about {topic}.",
    "Tell a short story about {topic}.",
    "I would like a story about {topic}.",
)


class Grammar:
    """Expands templates with choices ``{a|b}`` and slots ``$name``."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.slots: dict[str, str] = {}

    def pick(self, options: str) -> str:
        """Return one of the options separated by bars."""
        return self.rng.choice(options.split("|"))

    def two(self, options: str) -> list[str]:
        """Return two different options."""
        return self.rng.sample(options.split("|"), 2)

    def fill(self) -> None:
        """Draw every slot again, for one document."""
        rng, pick = self.rng, self.pick
        girl, other_girl = rng.random() < 0.5, rng.random() < 0.5
        name = rng.choice((GIRLS if girl else BOYS).split())
        other = rng.choice([n for n in (GIRLS if other_girl else BOYS).split() if n != name])
        grown, grown2 = rng.sample(["mom", "dad", "grandma", "grandpa"], 2)
        female = {"mom": True, "grandma": True, "dad": False, "grandpa": False}
        toy, toy2 = self.two(TOYS)
        hiding = pick(HIDING)
        animal, animal2 = self.two(ANIMALS)
        food = pick(FOODS)
        bake_parts = rng.sample(MIX.split("|"), 3)
        dest = rng.choice(list(DESTINATIONS))
        sees = self.two(DESTINATIONS[dest])
        elder = pick(ELDERS)
        small = pick("bird|rabbit|hedgehog|fox|mouse|squirrel|duck|owl|crow|kitten")
        wings = small in ("bird", "duck", "owl", "crow")
        he, him, his = ("she", "her", "her") if girl else ("he", "him", "his")
        mhe, mhim = ("she", "her") if other_girl else ("he", "him")
        wild, pet = pick(WILD), pick(PETS)
        self.slots = {
            "N": name, "he": he, "him": him, "his": his, "He": he.title(), "His": his.title(),
            "himself": "herself" if girl else "himself", "kid": "girl" if girl else "boy",
            "M": other, "mhe": mhe, "mhim": mhim, "Mhe": mhe.title(),
            "mkid": "girl" if other_girl else "boy", "sib": "sister" if other_girl else "brother",
            "grown": grown, "Grown": grown.title(), "grown2": grown2,
            "ghe": "she" if female[grown] else "he", "ghis": "hers" if female[grown] else "his",
            "toy": toy, "toy2": toy2, "color": pick(COLORS), "hiding": hiding,
            "place": pick(PLACES), "home": pick("by the sea|near the forest|in a small town|on a farm|"
            "in a big city|in a little house|at the end of the street"),
            "homeplace": pick("by the sea|near the forest|at the end of the street|on a hill|"
            "next to a mill|near the river"),
            "animal": animal, "animal2": animal2, "Animal": animal.title(),
            "wild": wild, "Wild": wild[0].upper() + wild[1:],
            "wildhide": pick("behind a tree|under a leaf|behind a rock|in the grass|under a bush"),
            "fruit": pick(FRUIT), "fruit1": pick("apple|pear|plum|orange|cookie"),
            "bake": pick(BAKES), "ingr": bake_parts[0], "ingr2": bake_parts[1], "ingr3": bake_parts[2],
            "sharer": pick(f"{other}|{his} {grown2}|the neighbor|{elder}"),
            "flying": pick("kite|balloon|paper plane|toy plane|paper bird"),
            "helper": pick(f"{elder}|{other}|{his} {grown}|the gardener|the firefighter"),
            "small": small, "part": "wing" if wings else pick("leg|foot|paw"),
            "dest": dest, "destsee": sees[0], "destsee2": sees[1],
            "build": pick("tower|tree house|raft|bridge|castle|doll house|boat|tent|snow house|wagon"),
            "fast": pick("hare|rabbit|horse|fox|deer|dog"),
            "slow": pick("turtle|snail|hedgehog|duck|mole"),
            "fragile": pick("vase|cup|plate|bowl|lamp|pot|clock|glass|bottle|picture"),
            "skill": pick("ride a bike|swim|skate|whistle|read|climb a rope|jump rope|play the drum|"
            "play chess|dance|draw a horse|row a boat|play the flute"),
            "noisemaker": pick("a little mouse with a nut|a branch at the window|a clock in a box|"
            f"a bird that had lost its way|a hedgehog in a paper bag|the {pet} with a paper bag|"
            "an owl on the roof|a cat with a ball"),
            "elder": elder, "pet": pet, "P": pick(PET_NAMES),
            "furcolor": pick("black|white|brown|gray|orange|black and white"),
            "plant": pick("flower|sunflower|rose|tomato plant|pumpkin|tulip|apple tree|bean plant"),
            "food": food, "Food": food.title(), "bird": pick("bird|crow|duck|gull|robin"),
        }  # fmt: skip

    def slot(self, match: re.Match[str]) -> str:
        """Return what stands for one ``$name``."""
        name = match.group(1)
        if name == "aside":
            return self.expand(self.rng.choice(ASIDES))
        if name.startswith("fresh_"):
            lists = {
                "hiding": HIDING, "pet": "dog|cat|mouse|bird|rabbit|goat", "color": COLORS,
                "food": FOODS, "bird": "bird|crow|robin", "animal": ANIMALS,
            }  # fmt: skip
            key = name.removeprefix("fresh_").rstrip("2")
            unwanted = (self.slots["hiding"], self.slots["food"])
            return self.pick("|".join(x for x in lists[key].split("|") if x not in unwanted))
        return self.slots[name]

    def expand(self, text: str) -> str:
        """Resolve choices from the inside out, then slots."""
        inner = re.compile(r"\{([^{}]*)\}")
        while found := inner.search(text):
            text = text[: found.start()] + self.pick(found.group(1)) + text[found.end() :]
        return re.sub(r"\$([A-Za-z_]+[0-9]?)", self.slot, text)


def capitalise(text: str) -> str:
    """Raise letters that start a sentence (not after ``Mr.``); mend spaces and ``a``/``an``."""
    out = re.sub(r"\s+", " ", text).strip()
    out = re.sub(r"\b([Aa])n? (?=[aeiou])", r"\1n ", out)
    out = re.sub(r"\b([Aa])n (?=one\b)", r"\1 ", out)
    return re.sub(
        r'(^"?|(?<!Mr)(?<!Mrs)\.("? )"?|[!?] )([a-z])',
        lambda m: m.group(0)[:-1] + m.group(3).upper(),
        out,
    )


def load_schemas(path: Path) -> dict[str, dict[str, list[str]]]:
    """Return, by schema name, its titles, summaries and lines."""
    schemas: dict[str, dict[str, list[str]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("== "):
            current: dict[str, list[str]] = {"title": [], "sum": [], "lines": []}
            schemas[line[3:]] = current
        elif line.startswith(("title: ", "sum: ")):
            key, value = line.split(": ", 1)
            current[key].append(value)
        elif line and not line.startswith("#"):
            current["lines"].append(line)
    return schemas


def story(g: Grammar, schema: dict[str, list[str]]) -> tuple[str, str, str]:
    """Return (topic, story, summary) of one schema with its slots drawn again."""
    g.fill()
    parts = []
    for line in schema["lines"]:
        if line.startswith("?"):
            chance, line = line[1:].split(" ", 1)
            if g.rng.random() >= float(chance):
                continue
        parts.append(g.expand(line))
    text = capitalise(" ".join(parts))
    topic = capitalise(g.expand(g.rng.choice(schema["title"])))
    if not topic.startswith(tuple((GIRLS + " " + BOYS).split())):
        topic = topic[0].lower() + topic[1:]
    return topic, text, capitalise(g.expand(g.rng.choice(schema["sum"])))


def load_facts(path: Path) -> dict[str, list[list[str]]]:
    """Return the rows of each table of facts."""
    tables: dict[str, list[list[str]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("@"):
            table: list[list[str]] = []
            tables[line[1:]] = table
        elif line and not line.startswith("#"):
            table.append(line.split("|"))
    return tables


def answer(g: Grammar, facts: dict[str, list[list[str]]]) -> tuple[str, str]:
    """Return one (question, answer)."""
    kinds = list(facts)
    kind = g.rng.choices(kinds, weights=[6, 5, 5, 1, 2, 5])[0]
    row = g.rng.choice(facts[kind])
    ask, say = "", ""
    if kind == "animals":
        name, home, eats, trait, young = row
        it = f"A {name}"
        ask, say = g.rng.choice(
            [
                (f"Where does a {name} live?", f"{it} lives {home}. {trait}"),
                (f"What does a {name} eat?", f"{it} eats {eats}. It lives {home}."),
                (
                    f"What do you know about a {name}?",
                    f"{it} lives {home}. It eats {eats}. {trait}",
                ),
                (
                    f"What is a {name}?",
                    f"{it} is an animal that lives {home}. {trait} It eats {eats}.",
                ),
                (f"Tell me about the {name}.", f"The {name} lives {home}. It eats {eats}. {trait}"),
                (
                    f"What is the young of a {name} called?",
                    f"The young of a {name} is called a {young}.",
                ),
            ]
        )
    elif kind == "jobs":
        name, does, where, uses = row
        ask, say = g.rng.choice(
            [
                (
                    f"What does a {name} do?",
                    f"A {name} {does}. A {name} works {where} with {uses}.",
                ),
                (f"Where does a {name} work?", f"A {name} works {where} and {does}."),
                (f"What does a {name} need?", f"A {name} needs {uses}. A {name} {does}."),
                (f"Who {does}?", f"A {name} {does}. A {name} works {where}."),
            ]
        )
    elif kind == "things":
        name, use, made = row
        ask, say = g.rng.choice(
            [
                (f"What is a {name} for?", f"A {name} is for {use}. It is made of {made}."),
                (f"What do you do with a {name}?", f"You use a {name} for {use}."),
                (
                    f"What is a {name} made of?",
                    f"A {name} is made of {made}. You use it for {use}.",
                ),
                (f"What do you need for {use}?", f"For {use}, you need a {name}."),
            ]
        )
    elif kind == "colors":
        ask, say = f"What color is {row[0]}?", f"{row[0]} is {row[1]}."
    elif kind == "opposites":
        a, b = row if g.rng.random() < 0.5 else row[::-1]
        ask, say = f"What is the opposite of {a}?", f"The opposite of {a} is {b}."
    else:
        ask, say = row
    return capitalise(ask), capitalise(say)


def loops(text: str) -> bool:
    """Tell whether more than a tenth of the runs of four words come twice."""
    words = text.split()
    runs = Counter(zip(words, words[1:], words[2:], words[3:], strict=False))
    repeated = sum(n - 1 for n in runs.values())
    return repeated > 0.1 * max(1, len(words))


def general_answers(folder: Path, tokenizer_folder: Path) -> list[str]:
    """Return the sampled answers of SmolLM2 that ended, in plain letters, without loops."""
    tok = AutoTokenizer.from_pretrained(str(tokenizer_folder))
    out = []
    for line in (folder / "answers.jsonl").read_text().splitlines():
        row = json.loads(line)
        text = str(tok.decode(row["answer"], skip_special_tokens=True)).strip()
        prompt = str(tok.decode(row["prompt"], skip_special_tokens=False))
        ask = prompt.split("<|im_start|>user\n")[1].split("<|im_end|>", maxsplit=1)[0]
        if row["answer"][-1] != 2:
            end = max(text.rfind(". "), text.rfind(".\n"))
            text = text[: end + 1]
        if len(text.split()) >= 15 and text.isascii() and not loops(text):
            out.append(f"Question: {ask}\nAnswer: {text}")
    return out


def opening(text: str) -> str:
    """Return the first two sentences."""
    return " ".join(re.split(r'(?<=[.!?]) |(?<=[.!?]") ', text)[:2])


def main() -> None:
    """Write the corpus."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--documents", type=int, default=60_000)
    parser.add_argument("--heldout", type=int, default=400)
    parser.add_argument("--drills", type=int, default=30_000)
    parser.add_argument("--general", type=Path, help="folder with answers.jsonl of SmolLM2")
    parser.add_argument("--general-tokenizer", type=Path, help="folder with SmolLM2's tokenizer")
    parser.add_argument("--general-repeats", type=int, default=3)
    parser.add_argument("--prompts", type=Path, default=HERE.parent / "dsim" / "prompts")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    g = Grammar(args.seed)
    schemas = load_schemas(HERE / "story_grammar.txt")
    facts = load_facts(HERE / "facts.txt")
    prompts = [
        json.loads(line)["prompt"]
        for file in sorted(args.prompts.glob("*.jsonl"))
        for line in file.read_text("utf-8").splitlines()
    ]

    def document() -> tuple[str, str]:
        draw = g.rng.random()
        if draw < 0.13:
            ask, say = answer(g, facts)
            return "answer", f"Question: {ask}\nAnswer: {say}"
        topic, text, summary = story(g, g.rng.choice(list(schemas.values())))
        if draw < 0.60:
            return "story", text
        if draw < 0.92:
            return "told", f"{g.rng.choice(FORMS).format(topic=topic)}\n{text}"
        return "summary", f"Story: {text}\nSummary: {summary}"

    heldout: list[tuple[str, str]] = []
    while len(heldout) < args.heldout:
        kind, text = document()
        if kind == "story":
            heldout.append((kind, text))
    openings = {opening(text) for _, text in heldout}

    general = (
        general_answers(args.general, args.general_tokenizer) * args.general_repeats
        if args.general
        else []
    )
    documents = [("general", text) for text in general]
    dropped = 0
    while len(documents) < args.documents + len(general):
        kind, text = document()
        body = text.split("\n")[1] if kind == "told" else text.removeprefix("Story: ")
        if opening(body) in openings:
            dropped += 1
        else:
            documents.append((kind, text))
    kept = [(k, t) for k, t in documents if not any(p in t for p in prompts)]
    dropped += len(documents) - len(kept)
    g.rng.shuffle(kept)
    args.out.mkdir(parents=True, exist_ok=True)
    drills = []
    templates = [
        line
        for line in (HERE / "drill_grammar.txt").read_text(encoding="utf-8").splitlines()
        if not line.startswith("#")
    ]
    for _ in range(args.drills):
        g.fill()
        chosen = g.rng.sample(templates, g.rng.choice((1, 1, 2)))
        drills.append(("drill", capitalise(" ".join(g.expand(t) for t in chosen))))
    for name, rows in (("train", kept), ("heldout", heldout), ("drill", drills)):
        with (args.out / f"{name}.jsonl").open("w", encoding="utf-8") as f:
            for kind, text in rows:
                f.write(json.dumps({"kind": kind, "text": text}) + "\n")
    counts = dict(Counter(kind for kind, _ in kept))
    print(f"{counts} documents, {dropped} dropped as too close to held-out text")
    print(f"{sum(len(t.split()) for _, t in kept)} words")


if __name__ == "__main__":
    main()
