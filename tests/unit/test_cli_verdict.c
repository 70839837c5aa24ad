/* SPDX-License-Identifier: Apache-2.0 */
/* The verdict of `mixbit plan` over made-up rows: which of them is recommended, by losses and times
 * that are known. What the verdict calls of other parts of the command line stands below. */
#include "cli/planning.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WINDOWS = 24, ROUNDS = 30, TENSORS = 3, ROWS_MOST = 8 };

/* ---- the rest of the command line ---- */

static char said[2000];

void mb_planning_note(struct mb_planning *run, const char *text)
{
    (void)run;
    (void)strncat(said, text, sizeof said - strlen(said) - 1);
}
void mb_warn(struct mb_cli *cli, const char *format, ...)
{
    (void)cli;
    (void)format;
}
void mb_note(struct mb_cli *cli, const char *format, ...)
{
    (void)cli;
    (void)format;
}
enum mb_quantity mb_minimize_quantity(int choice)
{
    (void)choice;
    return MB_QUANTITY_LOSS;
}
enum mb_format mb_mix_format(const struct mb_model *model, const struct mb_mix *mix, size_t i)
{
    (void)model;
    return mix->formats[i];
}
/* Formats that the user excluded are those of 3 bits here. */
bool mb_forecast_allows(const struct mb_forecast *forecast, const struct mb_mix *mix)
{
    (void)forecast;
    for (size_t i = 0; i < TENSORS; i++)
        if (mix->formats[i] == MB_FORMAT_Q3_K)
            return false;
    return true;
}
enum mb_status mb_comparison_time_again(struct mb_cli *cli, struct mb_comparison *comparison,
                                        const struct mb_compare_options *options,
                                        const size_t *rows, size_t count)
{
    (void)cli;
    (void)comparison;
    (void)options;
    (void)rows;
    (void)count;
    return MB_OK;
}

/* ---- rows ---- */

static struct world {
    struct mb_planning run;
    struct mb_planning_options options;
    struct mb_assignment rows[ROWS_MOST];
    enum mb_format formats[ROWS_MOST][TENSORS];
    double kl[ROWS_MOST][WINDOWS], rounds[ROWS_MOST][ROUNDS], prefill[ROWS_MOST][ROUNDS];
    struct mb_problem problem;
    struct mb_unit units[TENSORS];
    struct mb_candidate candidates[3];
} w;

static void begin(int encoder)
{
    static const enum mb_format formats[] = {MB_FORMAT_Q4_K, MB_FORMAT_Q4_0, MB_FORMAT_Q5_K};
    memset(&w, 0, sizeof w);
    said[0] = '\0';
    for (size_t c = 0; c < 3; c++)
        w.candidates[c] = (struct mb_candidate){.format = formats[c], .bytes = 100};
    for (size_t u = 0; u < TENSORS; u++)
        w.units[u] =
            (struct mb_unit){.tensor = u, .candidate_count = 3, .candidates = w.candidates};
    w.problem = (struct mb_problem){.unit_count = TENSORS, .units = w.units};
    w.options.encoder = encoder;
    w.run.options = &w.options;
    w.run.comparison.rows = w.rows;
    w.run.forecast.problem[MB_RESIDENCY_MEMORY] = &w.problem;
    w.run.reference = SIZE_MAX;
    w.run.as_fast_as = MB_FORMAT_NONE;
}

/* All windows of a row are off their mean alike, as windows are; `noise` is of this row alone. */
static size_t row(enum mb_row_kind kind, const char *name, enum mb_format format, double bytes,
                  double kl, double noise, double decode_ns)
{
    const size_t r = w.run.comparison.count++;
    struct mb_assignment *row = &w.rows[r];
    for (size_t i = 0; i < TENSORS; i++)
        w.formats[r][i] = i == 0 && kind >= MB_ROW_NEIGHBOUR ? MB_FORMAT_Q5_K : format;
    for (size_t i = 0; i < WINDOWS; i++)
        w.kl[r][i] = kl * (1 + 0.5 * ((double)(i % 5) - 2) / 2 * (i < 20)) +
                     kl * noise * (i % 2 == 0 ? 1 : -1);
    for (size_t i = 0; i < ROUNDS; i++)
        w.prefill[r][i] = w.rounds[r][i] = decode_ns * (1 + 0.002 * ((double)((i + r) % 3) - 1));
    *row = (struct mb_assignment){.kind = kind, .bytes = bytes, .measured = 1, .turn = 1};
    (void)snprintf(row->mix.name, sizeof row->mix.name, "%s", name);
    row->mix.count = TENSORS;
    row->mix.formats = w.formats[r];
    row->evaluation.windows = WINDOWS;
    row->evaluation.window_kl = w.kl[r];
    row->evaluation.kl_mean = kl;
    row->speed.decode_ns = decode_ns;
    row->speed.decode_rounds = w.rounds[r];
    row->speed.prefill_rounds = w.prefill[r];
    row->speed.decode_round_count = row->speed.prefill_round_count = ROUNDS;
    return r;
}

static void candidate(size_t row, size_t rival, double most_bytes)
{
    struct mb_planning_candidate *c = &w.run.candidates[w.run.candidate_count++];
    *c = (struct mb_planning_candidate){.plan = calloc(1, sizeof *c->plan),
                                        .residency = MB_RESIDENCY_MEMORY,
                                        .row = row,
                                        .rival = rival};
    assert_non_null(c->plan);
    c->plan->budget.max[MB_QUANTITY_BYTES] = most_bytes;
}

/* The row that is recommended, and the plan that is made of it. */
static size_t verdict(void)
{
    assert_int_equal(mb_planning_recommend(&w.run), MB_OK);
    const size_t chosen = w.run.chosen;
    assert_true(w.rows[chosen].recommended);
    assert_int_equal(w.run.plan->count, TENSORS);
    for (size_t i = 0; i < TENSORS; i++)
        assert_int_equal(w.run.plan->entries[i].format, w.formats[chosen][i]);
    mb_plan_free(w.run.plan);
    for (size_t i = 0; i < w.run.candidate_count; i++)
        mb_plan_free(w.run.candidates[i].plan);
    return chosen;
}

/* Uniform q4_K, which decode is held to, and a mix of its size. */
static size_t a_mix(double kl, double noise, double decode_ns, int encoder)
{
    begin(encoder);
    w.run.reference = row(MB_ROW_UNIFORM, "q4_K", MB_FORMAT_Q4_K, 300, 0.010, 0, 1000);
    const size_t mix = row(MB_ROW_PLAN, "mix", MB_FORMAT_Q4_0, 299, kl, noise, decode_ns);
    candidate(mix, MB_PLANNING_NO_RIVAL, 300);
    return mix;
}

/* ---- tests ---- */

static void a_mix_as_fast_that_loses_less_is_the_plan(void **state)
{
    (void)state;
    const size_t mix = a_mix(0.008, 0, 1001, MB_ENCODER_SEQUENTIAL);
    assert_int_equal(verdict(), mix);
    assert_string_equal(w.rows[mix].mix.name, "plan");
    assert_string_equal(said, "");
}

/* Rounding layer after layer may take less off the mix than off the uniform format. */
static void a_mix_that_hardly_loses_less_makes_room_for_the_reference(void **state)
{
    (void)state;
    (void)a_mix(0.0096, 0, 1000, MB_ENCODER_SEQUENTIAL);
    assert_int_equal(verdict(), w.run.reference);
    assert_non_null(strstr(said, "loses clearly less"));
    /* Where every row is written as it was measured, what the text tells apart counts. */
    const size_t mix = a_mix(0.0096, 0, 1000, MB_ENCODER_FEEDBACK);
    assert_int_equal(verdict(), mix);
    (void)a_mix(0.0096, 0.3, 1000, MB_ENCODER_FEEDBACK);
    assert_int_equal(verdict(), w.run.reference);
}

static void a_slower_mix_is_only_mentioned(void **state)
{
    (void)state;
    (void)a_mix(0.007, 0, 1030, MB_ENCODER_SEQUENTIAL);
    w.rows[1].predicted[MB_QUANTITY_DECODE] = 1030;
    assert_int_equal(verdict(), w.run.reference);
    assert_non_null(strstr(said, "was slower than uniform q4_K"));
    assert_non_null(strstr(said, "mix loses 30 % less"));
    assert_non_null(strstr(said, "% longer to decode"));
}

static void slow_down_prefill(size_t row, double factor)
{
    for (size_t i = 0; i < ROUNDS; i++)
        w.prefill[row][i] *= factor;
}

/* Prefill counts where the user named what to be as fast as, and only there. */
static void prefill_is_held_to_a_named_format(void **state)
{
    (void)state;
    size_t mix = a_mix(0.008, 0, 1000, MB_ENCODER_SEQUENTIAL);
    slow_down_prefill(mix, 1.05);
    assert_int_equal(verdict(), mix);
    mix = a_mix(0.008, 0, 1000, MB_ENCODER_SEQUENTIAL);
    w.run.as_fast_as = MB_FORMAT_Q4_K;
    assert_int_equal(verdict(), mix);
    mix = a_mix(0.008, 0, 1000, MB_ENCODER_SEQUENTIAL);
    w.run.as_fast_as = MB_FORMAT_Q4_K;
    slow_down_prefill(mix, 1.05);
    assert_int_equal(verdict(), w.run.reference);
    /* A preset that decodes as fast and loses less, but not in prefill, beats nobody then. */
    for (size_t held = 0; held < 2; held++) {
        mix = a_mix(0.008, 0, 1000, MB_ENCODER_SEQUENTIAL);
        w.run.as_fast_as = held ? MB_FORMAT_Q4_K : MB_FORMAT_NONE;
        const size_t preset = row(MB_ROW_PRESET, "IQ4_XS", MB_FORMAT_Q4_K, 290, 0.006, 0, 1001);
        slow_down_prefill(preset, 1.05);
        assert_int_equal(verdict(), held ? mix : preset);
    }
}

/* With a budget that the reference exceeds, the plan that was to be fastest stands in. */
static void a_reference_that_does_not_fit_is_not_written(void **state)
{
    (void)state;
    begin(MB_ENCODER_SEQUENTIAL);
    w.run.reference = row(MB_ROW_UNIFORM, "q4_K", MB_FORMAT_Q4_K, 300, 0.010, 0, 1000);
    const size_t mix = row(MB_ROW_PLAN, "mix", MB_FORMAT_Q4_0, 250, 0.020, 0, 1100);
    candidate(mix, MB_PLANNING_NO_RIVAL, 260);
    assert_int_equal(verdict(), mix);
}

static void a_preset_that_beats_the_plan_takes_its_place(void **state)
{
    (void)state;
    (void)a_mix(0.008, 0, 1000, MB_ENCODER_SEQUENTIAL);
    const size_t preset = row(MB_ROW_PRESET, "IQ4_XS", MB_FORMAT_Q4_K, 290, 0.006, 0, 1001);
    assert_int_equal(verdict(), preset);
    assert_non_null(strstr(said, "mix lost to IQ4_XS"));
    /* Unless the solver has an answer to it, */
    (void)a_mix(0.008, 0, 1000, MB_ENCODER_SEQUENTIAL);
    const size_t rival = row(MB_ROW_PRESET, "IQ4_XS", MB_FORMAT_Q4_K, 290, 0.006, 0, 1001);
    const size_t answer =
        row(MB_ROW_ANSWER, "plan (as IQ4_XS)", MB_FORMAT_Q4_0, 290, 0.005, 0, 1001);
    candidate(answer, rival, 290);
    assert_int_equal(verdict(), answer);
    /* it is slower, */
    size_t mix = a_mix(0.008, 0, 1000, MB_ENCODER_SEQUENTIAL);
    (void)row(MB_ROW_PRESET, "IQ4_XS", MB_FORMAT_Q4_K, 290, 0.006, 0, 1040);
    assert_int_equal(verdict(), mix);
    /* or the user excluded what it is made of. */
    mix = a_mix(0.008, 0, 1000, MB_ENCODER_SEQUENTIAL);
    (void)row(MB_ROW_PRESET, "Q3_K_L", MB_FORMAT_Q3_K, 290, 0.006, 0, 1000);
    assert_int_equal(verdict(), mix);
    assert_non_null(strstr(said, "rules out"));
}

/* Two losses that the text can't tell apart: the faster one. */
static void of_mixes_as_good_the_fastest_is_taken(void **state)
{
    (void)state;
    (void)a_mix(0.00800, 0.1, 1000, MB_ENCODER_SEQUENTIAL);
    const size_t faster = row(MB_ROW_PLAN, "other", MB_FORMAT_Q4_0, 298, 0.00805, 0, 950);
    candidate(faster, MB_PLANNING_NO_RIVAL, 300);
    assert_int_equal(verdict(), faster);
}

/* 1e9 / 1000 ns are a million tokens a second. */
static void a_speed_that_was_asked_for_and_missed_is_told(void **state)
{
    (void)state;
    for (size_t late = 0; late < 2; late++) {
        begin(MB_ENCODER_SEQUENTIAL);
        const size_t mix =
            row(MB_ROW_PLAN, "mix", MB_FORMAT_Q4_0, 299, 0.008, 0, late ? 1000 : 910);
        candidate(mix, MB_PLANNING_NO_RIVAL, 300);
        w.run.candidates[0].plan->budget.max[MB_QUANTITY_DECODE] = 900;
        assert_int_equal(verdict(), mix);
        if (late) {
            assert_non_null(
                strstr(said, "Measured decode is 1000000 tok/s, 10 % below the 1111111"));
            assert_non_null(strstr(said, "--min-decode 1234568"));
        } else {
            assert_string_equal(said, "");
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_mix_as_fast_that_loses_less_is_the_plan),
        cmocka_unit_test(a_mix_that_hardly_loses_less_makes_room_for_the_reference),
        cmocka_unit_test(a_slower_mix_is_only_mentioned),
        cmocka_unit_test(prefill_is_held_to_a_named_format),
        cmocka_unit_test(a_reference_that_does_not_fit_is_not_written),
        cmocka_unit_test(a_preset_that_beats_the_plan_takes_its_place),
        cmocka_unit_test(of_mixes_as_good_the_fastest_is_taken),
        cmocka_unit_test(a_speed_that_was_asked_for_and_missed_is_told),
    };
    return cmocka_run_group_tests_name("cli verdict", tests, NULL, NULL);
}
