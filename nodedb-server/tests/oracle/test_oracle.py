"""Tests of the oracle's own model: what it expects of a server must itself be right."""

import math
import unittest

import numpy as np

import atlas
from answers import Counted, Exact, Ranked
from channels import inlined
from model import And, Model, Near, Not, Or, TextMatch, compare, is_null, true_ids, vector_text
from text import TextIndex, parse, tokens
from variants import Generator, Write

PLACES = [("Berlin", (13.4, 52.5)), ("Paris", (2.35, 48.86)), ("Lima", (-77.03, -12.04))]
WORDS = "memory profiler debugging library parser network driver graphics simple fast tool".split()


def row(row_id, **columns):
    base = dict.fromkeys(atlas.COLUMNS)
    vector = np.zeros(384, np.float32)
    vector[row_id % 384] = 1
    base.update(id=row_id, name=f"n{row_id}", summary="a", description="b", embedding=vector)
    return {**base, **columns}


def small_model(count=60):
    random = np.random.default_rng(7)
    model = Model(count + 500)
    for i in range(1, count + 1):
        place, location = PLACES[i % 3]
        text = [" ".join(random.choice(WORDS, 8)) for _ in range(2)]
        vector = random.normal(size=384).astype(np.float32)
        model.put(
            row(
                i, section=f"s{i % 4}", installed_kib=i * 10, tenant_id=i % 5, place=place,
                location=location, summary=text[0], description=text[1], embedding=vector,
            )
        )  # fmt: skip
    return model


class Text(unittest.TestCase):
    def index(self, **documents):
        index = TextIndex()
        for name, columns in documents.items():
            index.put(name, columns)
        return index

    def match(self, index, query):
        return "".join(sorted(index.match(parse(query))))

    def test_tokens_are_runs_of_letters_and_digits(self):
        self.assertEqual(tokens("C++11, Größe"), [(0, "c"), (1, "11"), (2, "größe")])

    def test_a_long_token_is_dropped_and_leaves_a_hole(self):
        self.assertEqual(tokens(f"a {'x' * 41} {'y' * 40}"), [(0, "a"), (2, "y" * 40)])

    def test_grammar(self):
        self.assertEqual(
            parse('a b OR NOT c AND "d e"'),
            ("or", [("and", [("word", "a"), ("word", "b")]),
                    ("and", [("not", ("word", "c")), ("phrase", "d e")])]),
        )  # fmt: skip
        self.assertEqual(parse("(a OR b*) c")[0], "and")

    def test_words_match_by_stem_and_prefixes_by_token(self):
        index = self.index(a=["debugging memory", None], b=["debugger", "fast"], c=["bug", "x"])
        self.assertEqual(self.match(index, "debug"), "a")
        self.assertEqual(self.match(index, "Debug*"), "ab")
        self.assertEqual(self.match(index, "debugg* NOT fast"), "a")
        self.assertEqual(self.match(index, "NOT memory"), "bc")

    def test_phrases_need_positions_and_do_not_cross_columns(self):
        index = self.index(
            a=["shared memory", "pool"], b=["memory shared", "x"], c=["shared", "memory"],
            d=[f"shared {'x' * 50} memory", None],
        )  # fmt: skip
        self.assertEqual(self.match(index, '"shared memories"'), "a")
        self.assertEqual(self.match(index, "shared-memory"), "a")

    def test_rows_without_text_have_no_document(self):
        index = self.index(a=[None, None], b=["x", None])
        self.assertEqual(set(index.documents), {"b"})
        index.put("b", None)
        self.assertEqual((index.by_stem, index.length_total), ({}, 0))

    def test_bm25_by_hand(self):
        index = self.index(a=["cat cat dog", None], b=["dog", None], c=["bird bird", None])
        idf = math.log(1 + (3 - 1 + 0.5) / (1 + 0.5))
        wanted = idf * 2 * 2.2 / (2 + 1.2 * (0.25 + 0.75 * 3 / 2))
        score = index.scorer(parse("cat"))
        self.assertAlmostEqual(score("a"), wanted, 12)
        self.assertEqual((score("b"), score("nowhere")), (0.0, None))
        self.assertAlmostEqual(index.scorer(parse("cat* AND NOT dog"))("a"), wanted, 12)
        self.assertAlmostEqual(index.scorer(parse("cat cat"))("a"), 2 * wanted, 12)


class Predicates(unittest.TestCase):
    def test_a_predicate_its_negation_and_null_partition_the_rows(self):
        model = small_model()
        for i in (3, 7):
            nothing = dict.fromkeys(["tenant_id", "location", "summary", "description"])
            model.put({**model.rows[i], **nothing})
        model.delete(9)
        for predicate in [
            compare("tenant_id", "=", 3),
            TextMatch("memory OR NOT parser"),
            Near((13.4, 52.5), 900_000),
            Or(compare("tenant_id", "<>", 1), TextMatch("fast")),
            And(compare("tenant_id", "<>", 1), Not(TextMatch("fast"))),
        ]:
            true, unknown = predicate.masks(model)
            false, again = Not(predicate).masks(model)
            self.assertTrue(np.array_equal(unknown, again))
            total = true.astype(int) + false + unknown
            self.assertTrue(np.array_equal(total, model.alive.astype(int)), predicate.sql("t"))
            self.assertTrue(unknown.sum() == 2, predicate.sql("t"))
        self.assertEqual(true_ids(model, is_null("location")), [3, 7])

    def test_unknown_or_true_is_true(self):
        model = Model(4)
        model.put(row(1, tenant_id=None, place="x"))
        known, unknown = compare("place", "=", "x"), compare("tenant_id", "=", 1)
        self.assertEqual(true_ids(model, Or(unknown, known)), [1])
        self.assertEqual(true_ids(model, And(unknown, known)), [])
        self.assertEqual(true_ids(model, Not(And(unknown, Not(known)))), [1])

    def test_sql_keeps_the_structure(self):
        a, b, c = (compare("x", "=", i) for i in range(3))
        self.assertEqual(And(Or(a, b), Not(c)).sql("t"), "(x = 0 OR x = 1) AND NOT (x = 2)")
        self.assertEqual(Or(And(a, b), c).sql("t"), "(x = 0 AND x = 1) OR x = 2")
        self.assertEqual(TextMatch("it's").sql("p"), "text_match(p, 'it''s')")

    def test_metres_on_the_ellipsoid(self):
        # One degree of the equator, and of the meridian at the equator.
        model = Model(1)
        self.assertAlmostEqual(model.metres((0.0, 0.0), (1.0, 0.0)), 111319.4908, 3)
        self.assertAlmostEqual(model.metres((0.0, 0.0), (0.0, 1.0)), 110574.3886, 3)

    def test_distances(self):
        model = Model(3)
        model.put(row(1))
        model.put(row(2, embedding=None))
        vector = np.zeros(384, np.float32)
        vector[1:3] = 3
        found = {op: model.distances(op, vector, [1, 2]) for op in ("<=>", "<->", "<#>", "<+>")}
        self.assertAlmostEqual(found["<=>"][0], 1 - 1 / math.sqrt(2), 12)
        self.assertAlmostEqual(found["<->"][0], math.sqrt(13), 12)
        self.assertEqual((found["<#>"], found["<+>"]), ([-3.0, None], [5.0, None]))


class Answers(unittest.TestCase):
    def test_near_ties_may_swap_and_others_may_not(self):
        answer = Ranked([1, 2, 3, 4], "abcd", [0.1, 0.1 + 1e-7, 0.3, None], 3, 1e-6)
        self.assertIsNone(answer.differs([[2, "b", 0.1], [1, "a", 0.1], [3, "c", 0.3]]))
        self.assertIsNone(answer.differs([["1", "a", "0.1"], ["2", "b", "0.1"], ["3", "c", "0.3"]]))
        for wrong in (
            [[1, "a", 0.1], [2, "b", 0.1]],
            [[1, "a", 0.1], [3, "c", 0.3], [2, "b", 0.1]],
            [[1, "a", 0.1], [2, "b", 0.1], [4, "d", None]],
            [[1, "a", 0.1], [1, "a", 0.1], [3, "c", 0.3]],
            [[1, "a", 0.1], [2, "b", 0.1], [3, "c", 0.3001]],
            [[1, "a", 0.1], [2, "x", 0.1], [3, "c", 0.3]],
            [[1, "a", 0.1], [2, "b", 0.1], [9, "z", 0.3]],
        ):
            self.assertIsNotNone(answer.differs(wrong), wrong)

    def test_ties_at_the_limit_and_descending_scores(self):
        answer = Ranked([1, 2, 3], "abc", [2.0, 1.0, 1.0], 2, 1e-4, descending=True)
        self.assertIsNone(answer.differs([[1, "a", 2.0], [3, "c", 1.0]]))
        self.assertIsNotNone(answer.differs([[2, "b", 1.0], [3, "c", 1.0]]))

    def test_counts_and_rows(self):
        self.assertIsNone(Counted(3).differs([["3"]]))
        self.assertIsNotNone(Counted(3).differs([[4]]))
        self.assertIsNone(Exact(["int", "text"], [[1, "a"]]).differs([["1", "a"]]))
        self.assertIsNotNone(Exact(["int"], [[1]]).differs([]))


class Generation(unittest.TestCase):
    def run_of(self, seed):
        model = small_model()
        generator = Generator(seed, model, np.eye(4, 384, dtype=np.float32))
        script = []
        for _ in range(40):
            script += [generator.write(), generator.ask()]
        return model, generator, script

    def test_a_seed_gives_one_script_and_most_variants_return_rows(self):
        model, generator, first = self.run_of(3)
        _, _, second = self.run_of(3)
        self.assertEqual([s.sql for s in first], [s.sql for s in second])
        self.assertLessEqual(generator.empty, 0.2 * generator.asked)
        self.assertTrue(all(isinstance(s, Write) or s.evaluate(model) for s in first))

    def test_the_index_follows_the_writes(self):
        model, _, _ = self.run_of(5)
        fresh = Model(1000)
        for i in model.rows:
            fresh.put(model.rows[i])
        self.assertEqual(model.text.by_stem, fresh.text.by_stem)
        self.assertEqual(model.text.length_total, fresh.text.length_total)


class Formats(unittest.TestCase):
    def test_copy_line(self):
        line = atlas.copy_line(row(1, name="a\tb\\", location=(1.5, 2.0), embedding=None))
        self.assertTrue(line.startswith("1\ta\\tb\\\\\t\\N\t"))
        self.assertTrue(line.endswith("\tPOINT(1.5 2.0)\t\\N\n"))

    def test_vectors_read_back_as_they_were(self):
        vector = np.array([0.1, -1e-8, 3], np.float32)
        text = vector_text(vector)
        read = np.array([np.float32(x) for x in text.strip("[]").split(",")])
        self.assertTrue(np.array_equal(read, vector))

    def test_parameters_as_literals(self):
        self.assertEqual(inlined("a $1 b $2 c $1", ["x'y", 3]), "a 'x''y' b 3 c 'x''y'")


if __name__ == "__main__":
    unittest.main()
