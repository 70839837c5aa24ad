/* SPDX-License-Identifier: Apache-2.0 */
/* Calibration by measured mixes. Oracles: times that are known because they are made up, and least
 * squares where the mixes determine everything. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "solver/calibrate.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LAYERS = 6, SHAPES = 4, UNITS = LAYERS * SHAPES, FORMATS = 6, MIXES = 64 };

static uint32_t seed;

/* Uniform in [-1, 1). */
static double noise(void)
{
    seed = seed * 1664525u + 1013904223u;
    return (double)(seed >> 8) / (1 << 23) - 1;
}

struct world {
    struct mb_problem problem;
    struct mb_unit units[UNITS];
    struct mb_candidate candidates[UNITS][FORMATS];
    double truth[SHAPES][FORMATS];
    size_t choice[MIXES][UNITS];
    struct mb_timed_mix mixes[MIXES];
    size_t count;
};

/* Every time as a machine of `machine` times the speed would have it, off by up to 6 %. */
static void make_world(struct world *w, double machine)
{
    static const size_t n[SHAPES] = {256, 128, 768, 256}, k[SHAPES] = {256, 256, 256, 768};
    double table[SHAPES][FORMATS];
    memset(w, 0, sizeof *w);
    for (size_t s = 0; s < SHAPES; s++)
        for (size_t f = 0; f < FORMATS; f++) {
            w->truth[s][f] = 0.1 * (double)(n[s] * k[s]) * (1 + 0.1 * (double)f) + 900;
            table[s][f] = w->truth[s][f] * machine * (1 + 0.06 * noise());
        }
    for (size_t u = 0; u < UNITS; u++) {
        const size_t s = u % SHAPES;
        for (size_t f = 0; f < FORMATS; f++)
            w->candidates[u][f] =
                (struct mb_candidate){.format = (enum mb_format)(MB_FORMAT_Q4_0 + f),
                                      .decode_ns = table[s][f],
                                      .prefill_ns = 77};
        w->units[u] = (struct mb_unit){
            .n = n[s], .k = k[s], .candidate_count = FORMATS, .candidates = w->candidates[u]};
    }
    w->problem = (struct mb_problem){.unit_count = UNITS, .units = w->units};
}

static double truth_of(const struct world *w, const size_t *choice)
{
    double sum = 0;
    for (size_t u = 0; u < UNITS; u++)
        sum += w->truth[u % SHAPES][choice[u]];
    return sum;
}

static double table_of(const struct world *w, const size_t *choice)
{
    double sum = 0;
    for (size_t u = 0; u < UNITS; u++)
        sum += w->candidates[u][choice[u]].decode_ns;
    return sum;
}

static void measure(struct world *w, const size_t *choice, double off)
{
    memcpy(w->choice[w->count], choice, UNITS * sizeof *choice);
    w->mixes[w->count] =
        (struct mb_timed_mix){w->choice[w->count], truth_of(w, choice) * (1 + off * noise())};
    w->count++;
}

static void measure_uniform(struct world *w, double off)
{
    for (size_t f = 0; f < FORMATS; f++) {
        size_t choice[UNITS];
        for (size_t u = 0; u < UNITS; u++)
            choice[u] = f;
        measure(w, choice, off);
    }
}

/* What a solver does that has to use each format equally often: the shape in which the table says
 * that a format is cheapest, beside the others, gets it. */
static void pick(const struct world *w, size_t turn, size_t *choice)
{
    for (size_t u = 0; u < UNITS; u++) {
        const size_t s = u % SHAPES;
        double best = INFINITY;
        for (size_t f = 0; f < FORMATS; f++) {
            const double beside =
                w->candidates[s][f].decode_ns / w->truth[s][f] + 0.01 * (double)((f + turn) % 3);
            if (beside < best) {
                best = beside;
                choice[u] = f;
            }
        }
    }
}

static void test_uniform_mixes(void **state)
{
    (void)state;
    for (seed = 1; seed < 2000000; seed += 99991) {
        struct world w;
        make_world(&w, 1.6);
        measure_uniform(&w, 0.002);
        assert_int_equal(mb_problem_calibrate(&w.problem, MB_QUANTITY_DECODE, w.mixes, w.count),
                         MB_OK);
        for (size_t i = 0; i < w.count; i++)
            assert_true(fabs(table_of(&w, w.choice[i]) / truth_of(&w, w.choice[i]) - 1) < 0.01);
        assert_true(w.candidates[3][2].prefill_ns == 77); /* the other quantity stays */
    }
}

/* Mixes picked for the table's errors in their favour: after they were measured too, they are
 * foreseen, and so is the next pick, better than before. */
static void test_mixes_that_were_picked(void **state)
{
    (void)state;
    double before = 0, after = 0;
    size_t worlds = 0;
    for (seed = 1; seed < 3000000; seed += 99991, worlds++) {
        struct world w, again;
        size_t choice[UNITS], next[UNITS];
        make_world(&w, 1.3);
        memcpy(&again, &w, sizeof w);
        measure_uniform(&w, 0.002);
        assert_int_equal(mb_problem_calibrate(&w.problem, MB_QUANTITY_DECODE, w.mixes, w.count),
                         MB_OK);
        pick(&w, 0, choice);
        const double surprise = truth_of(&w, choice) / table_of(&w, choice) - 1;
        /* From the same table as at first, with all that is known now. */
        for (size_t u = 0; u < UNITS; u++)
            memcpy(w.candidates[u], again.candidates[u], sizeof w.candidates[u]);
        for (size_t turn = 0; turn < 3; turn++) {
            pick(&w, turn, choice);
            measure(&w, choice, 0.002);
        }
        assert_int_equal(mb_problem_calibrate(&w.problem, MB_QUANTITY_DECODE, w.mixes, w.count),
                         MB_OK);
        for (size_t i = 0; i < w.count; i++)
            assert_true(fabs(table_of(&w, w.choice[i]) / truth_of(&w, w.choice[i]) - 1) < 0.012);
        pick(&w, 0, next);
        before += fabs(surprise);
        after += fabs(truth_of(&w, next) / table_of(&w, next) - 1);
    }
    assert_true(before / (double)worlds > 0.02); /* the picks were worse than they looked */
    assert_true(after < 0.7 * before);
}

static void random_choice(size_t *choice)
{
    for (size_t u = 0; u < UNITS; u++)
        choice[u] = (size_t)((noise() + 1) * 0.5 * FORMATS);
}

/* After many mixes any other is foreseen, whatever was believed. */
static void test_many_mixes(void **state)
{
    (void)state;
    struct world w, table;
    double before = 0, after = 0;
    size_t choice[UNITS];
    seed = 7;
    make_world(&w, 0.9);
    memcpy(&table, &w, sizeof w);
    measure_uniform(&w, 0);
    while (w.count < MIXES) {
        random_choice(choice);
        measure(&w, choice, 0);
    }
    assert_int_equal(mb_problem_calibrate(&w.problem, MB_QUANTITY_DECODE, w.mixes, w.count), MB_OK);
    for (size_t i = 0; i < 200; i++) {
        random_choice(choice);
        before = fmax(before, fabs(table_of(&table, choice) / 0.9 / truth_of(&w, choice) - 1));
        after = fmax(after, fabs(table_of(&w, choice) / truth_of(&w, choice) - 1));
    }
    assert_true(before > 0.02);
    assert_true(after < 0.004);
    for (size_t f = 0; f < FORMATS; f++) /* one shape, one time */
        assert_true(w.candidates[0][f].decode_ns == w.candidates[SHAPES][f].decode_ns);
}

/* Nothing measured, nothing changed; no time, no part in it; never a time of 0 or less. */
static void test_edges(void **state)
{
    (void)state;
    struct world w;
    size_t choice[UNITS] = {0};
    seed = 3;
    make_world(&w, 1);
    const struct mb_candidate first = w.candidates[0][0];
    assert_int_equal(mb_problem_calibrate(&w.problem, MB_QUANTITY_DECODE, NULL, 0), MB_OK);
    assert_memory_equal(&w.candidates[0][0], &first, sizeof first);
    const double odd[] = {NAN, INFINITY, 0, -5};
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        const struct mb_timed_mix mix = {choice, odd[i]};
        assert_int_equal(mb_problem_calibrate(&w.problem, MB_QUANTITY_DECODE, &mix, 1), MB_OK);
        assert_memory_equal(&w.candidates[0][0], &first, sizeof first);
    }
    const struct mb_timed_mix fast = {choice, 1e-3};
    assert_int_equal(mb_problem_calibrate(&w.problem, MB_QUANTITY_DECODE, &fast, 1), MB_OK);
    for (size_t u = 0; u < UNITS; u++)
        for (size_t f = 0; f < FORMATS; f++)
            assert_true(w.candidates[u][f].decode_ns > 0);
    /* A tensor that is only looked up has no time. */
    for (size_t u = 0; u < UNITS; u++)
        for (size_t f = 0; f < FORMATS; f++)
            w.candidates[u][f].decode_ns = 0;
    assert_int_equal(mb_problem_calibrate(&w.problem, MB_QUANTITY_DECODE, &fast, 1), MB_OK);
    assert_true(w.candidates[0][0].decode_ns == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_uniform_mixes),
        cmocka_unit_test(test_mixes_that_were_picked),
        cmocka_unit_test(test_many_mixes),
        cmocka_unit_test(test_edges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
