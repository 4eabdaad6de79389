"""Makes the golden of the metrics, metrics.json, and a small WordNet, wordnet/: python generate_metrics.py VISDIAL NEXT_OE WORDNET
(requirements_metrics.txt and Java installed; checkouts of the two repositories, and a folder of WordNet's files).

wordnet/ has the synsets of the words in metrics.json and their hypernyms, with new offsets, without glosses and other pointers.
"""

import importlib.metadata
import importlib.util
import json
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile

import nltk
import torch
from nltk.corpus.reader.wordnet import WordNetCorpusReader
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer
from sklearn.metrics import roc_auc_score

import metrics_cases as cases

HERE = pathlib.Path(__file__).resolve().parent
PARTS = {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}
VISDIAL, NEXT_OE, WORDNET = map(pathlib.Path, sys.argv[1:4])
generator = random.Random(7)


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def open_flamingo(name):
    folder = importlib.util.find_spec("open_flamingo").submodule_search_locations[0]
    return load(pathlib.Path(folder) / "eval" / name)


def words(captions):
    """The words that CIDEr counts: it splits the tokenizer's lines at white space."""
    lines = PTBTokenizer().tokenize({i: [{"caption": caption}] for i, caption in enumerate(captions)})
    return [lines[i][0].split() for i in range(len(captions))]


def cider():
    subjects = ["a man", "two women", "the dog", "a brown horse", "some children", "an old man"]
    verbs = ["rides", "is holding", "plays with", "jumps over", "doesn't see", "looks at"]
    objects = ["a surfboard", "the kite.", "a well-known statue", "2 frisbees", "an umbrella in the U.S.", "its owner's hat"]
    places = ["in the park", "on a wave!", "at 5 p.m.", "next to a table", "", "on the beach, in the sun"]
    caption = lambda: " ".join(generator.choice(parts) for parts in (subjects, verbs, objects, places)).strip()
    items = [{"caption": caption(), "references": [caption() for _ in range(generator.randint(1, 5))]} for _ in range(24)]
    items[0]["caption"] = items[0]["references"][0]
    items[1]["caption"] = ""
    items[2]["caption"] = "xylophone"
    items[3]["references"] += [items[3]["references"][0]]
    tokenizer = PTBTokenizer()
    references = tokenizer.tokenize({i: [{"caption": c} for c in item["references"]] for i, item in enumerate(items)})
    captions = tokenizer.tokenize({i: [{"caption": item["caption"]}] for i, item in enumerate(items)})
    mean, scores = Cider().compute_score(references, captions)
    return {"items": items, "mean": float(mean), "scores": [float(score) for score in scores]}


def vqa():
    evaluation = open_flamingo("vqa_metric.py").VQAEval(None, None, n=10)
    normalise = lambda text: evaluation.processDigitArticle(
        evaluation.processPunctuation(text.replace("\n", " ").replace("\t", " ").strip()))
    contractions = [key for key in evaluation.contractions if key == key.lower()]
    answers = cases.ANSWERS + contractions + ["Im here", "I'dve"]
    items = []
    for i in range(60):
        pool = generator.sample(cases.ANSWERS, 3)
        given = [generator.choice(pool) for _ in range(generator.choice([10, 10, 10, 1, 3]))]
        items.append({"prediction": generator.choice(pool), "answers": given})
    for item in items:
        truth = {"question_type": "", "answers": [{"answer": a, "answer_id": i} for i, a in enumerate(item["answers"])]}
        evaluation.vqa = type("", (), {"qa": {0: truth}})
        evaluation.vqaRes = type("", (), {"qa": {0: {"answer": item["prediction"]}}})
        evaluation.updateProgress = lambda _: None
        evaluation.evaluate([0])
        item["accuracy"] = evaluation.evalQA[0] / 100
    return {"normalised": [[answer, normalise(answer)] for answer in answers], "items": items}


def auc():
    found = []
    for count, digits in [(2, 1), (20, 1), (50, 0), (100, 6), (30, 2)]:
        positive = [True, False] + [generator.random() < 0.4 for _ in range(count - 2)]
        scores = [round(generator.gauss(float(p), 1.0), digits) for p in positive]
        found.append({"scores": scores, "positive": positive, "auc": float(roc_auc_score(positive, scores))})
    return found


def visdial():
    metrics = load(VISDIAL / "visdialch" / "metrics.py")
    options = 12
    relevance = [[generator.choice([0, 0, 0.2, 0.4, 0.8, 1]) for _ in range(options)] for _ in range(10)]
    scores = [[round(generator.gauss(r, 1.0), 4) for r in row] for row in relevance]
    for row in relevance:
        row[generator.randrange(options)] = 1
    ndcg = []
    for row, relevant in zip(scores, relevance):
        # Two rows, because the reference drops an axis of length 1.
        metric = metrics.NDCG()
        metric.observe(torch.tensor([row, row]), torch.tensor([relevant, relevant]))
        ndcg.append(metric.retrieve()["ndcg"])
    targets = [generator.randrange(options) for _ in scores]
    metric = metrics.SparseGTMetrics()
    metric.observe(torch.tensor([scores]), torch.tensor([targets]))
    return {"scores": scores, "relevance": relevance, "ndcg": ndcg, "targets": targets, "ranks": metric.retrieve()}


class EnglishOnly(WordNetCorpusReader):
    def map_wn(self, version="wordnet"):
        """No map to the versions of WordNet in other languages, for which nltk would look for its own copy."""


def reader(folder):
    """Opens a WordNet with nltk, which wants two files that Debian lacks and that these measures do not need."""
    whole = pathlib.Path(tempfile.mkdtemp())
    for path in folder.iterdir():
        shutil.copy(path, whole)
    for name in ("cntlist.rev", "index.sense"):
        (whole / name).touch()
    (whole / "lexnames").write_text("".join(f"{i:02}\tname.{i}\t1\n" for i in range(45)))
    nltk.data.path.append(str(whole))  # nltk reads only below its own folders.
    return EnglishOnly(str(whole), None)


def similarities(words):
    next_oe = load(NEXT_OE / "metrics.py")
    next_oe.wordnet = words
    next_oe.word_tokenize = nltk.tokenize.NLTKWordTokenizer().tokenize
    pairs = []
    for first in cases.WORDS:
        for second in generator.sample(cases.WORDS, 12):
            a, b = words.synsets(first), words.synsets(second)
            pairs.append([first, second, a[0].wup_similarity(b[0]) if a and b else None])
    answers = []
    for _ in range(60):
        prediction, reference = (" ".join(generator.sample(cases.WORDS, generator.randint(1, 4))) for _ in range(2))
        scores = [next_oe.get_wups(prediction, reference, threshold) for threshold in (0.0, 0.9)]
        answers.append([prediction, reference, *scores])
    return {"pairs": pairs, "answers": answers}


def stems(words):
    """Stems of the reference, its part-of-speech tagger replaced by the given tag."""
    module = open_flamingo("ok_vqa_utils.py")
    stemmer = module.OKVQAStemmer()
    nltk.stem.WordNetLemmatizer._morphy = lambda _, form, pos, check=True: words._morphy(form, pos, check)
    found = []
    for word in cases.STEMMED + [word for word in module._MANUAL_MATCHES if "'" not in word]:
        for plural in (False, True):
            module.nltk.tokenize.word_tokenize = str.split
            module.nltk.pos_tag = lambda tokens, plural=plural: [(t, "NNS" if plural else "NN") for t in tokens]
            found.append([word, plural, stemmer.stem(word)])
    return found


def line(synset, part, offsets):
    """A line of data.* with the hypernyms only."""
    hypernyms = [("@", h) for h in synset.hypernyms()] + [("@i", h) for h in synset.instance_hypernyms()]
    pointers = "".join(f" {symbol} {offsets[h.offset()]:08} {part} 0000" for symbol, h in hypernyms)
    frames = " 00" if part == "v" else ""
    return f"{offsets[synset.offset()]:08} 03 {part} 01 {synset._lemmas[0]._name} 0 {len(hypernyms):03}{pointers}{frames} | \n"


def small_wordnet(words, folder):
    """Writes the synsets of the cases and their hypernyms, with the words that nltk needs to name them."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    kept = {part: set() for part in PARTS.values()}
    lemmas = {part: {} for part in PARTS.values()}
    for word in {*" ".join(cases.WORDS + cases.STEMMED).split()}:
        for part in kept:
            for form in words._morphy(word, part):
                for sense in words._lemma_pos_offset_map[form][part][:3]:
                    lemmas[part].setdefault(form, []).append(sense)
                    synset = words.synset_from_pos_and_offset(part, sense)
                    kept[part] |= {s.offset() for path in synset.hypernym_paths() for s in path}
    for name, part in PARTS.items():
        licence = [line for line in open(WORDNET / f"data.{name}", encoding="utf-8") if line.startswith("  ")]
        # nltk reads the version of WordNet here; the other files have no licence of their own.
        text = "".join(licence)
        synsets = [words.synset_from_pos_and_offset(part, offset) for offset in sorted(kept[part])]
        offsets, at = {}, len(text.encode())
        for synset in synsets:
            lemmas[part].setdefault(synset._lemmas[0]._name.lower(), [])
            offsets[synset.offset()] = at
            at += len(line(synset, part, dict.fromkeys(kept[part], 0)).encode())
        text += "".join(line(synset, part, offsets) for synset in synsets)
        (folder / f"data.{name}").write_text(text, encoding="utf-8")
        index = ""
        for form in sorted(lemmas[part]):
            senses = [offsets[o] for o in words._lemma_pos_offset_map[form][part] if o in offsets]
            index += f"{form} {part} {len(senses)} 0 {len(senses)} 0 " + " ".join(f"{o:08}" for o in senses) + "\n"
        (folder / f"index.{name}").write_text(index, encoding="utf-8")
        exceptions = open(WORDNET / f"{name}.exc", encoding="utf-8").read().splitlines()
        known = {*cases.WORDS, *cases.STEMMED}
        (folder / f"{name}.exc").write_text("".join(f"{line}\n" for line in exceptions if line.split()[0] in known))


def main():
    java = subprocess.run(["java", "-version"], capture_output=True, text=True).stderr.splitlines()[0]
    packages = ["pycocoevalcap", "scikit-learn", "nltk", "open_flamingo", "inflection", "torch"]
    versions = {name: importlib.metadata.version(name) for name in packages} | {"java": java}
    golden = {"made_with": versions | {"stanford-corenlp": "3.4.1", "wordnet-base": "1:3.0-37"}}
    golden["captions"] = [list(case) for case in zip(cases.CAPTIONS, words(cases.CAPTIONS))]
    golden |= {"cider": cider(), "vqa": vqa(), "auc": auc(), "visdial": visdial()}
    full = reader(WORDNET)
    small_wordnet(full, HERE / "wordnet")
    small = reader(HERE / "wordnet")
    state = generator.getstate()
    golden["wordnet"] = similarities(full)
    golden["stems"] = stems(full)
    generator.setstate(state)
    assert golden["wordnet"] == similarities(small) and golden["stems"] == stems(small), "the small WordNet has other values"
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in golden.items())
    (HERE / "metrics.json").write_text("{\n" + lines + "\n}\n", encoding="utf-8")


main()
