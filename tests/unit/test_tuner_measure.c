/* SPDX-License-Identifier: Apache-2.0 */
/* How time is measured, without any time passing: the clock here advances only when a case runs, by
 * what a script says, so every figure has one right value. */
#include "tuner/limits.h"
#include "tuner/measure.h"
#include "tuner/workload.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct world {
    uint64_t now, disturbances;
    uint64_t step, readings, readings_per_step; /* of a coarse clock */
    int backwards;                              /* readings that still go back */
    char log[4096];
    size_t log_count;
};

/* Sample i of a case costs costs[i] per iteration (the last one for ever), and is disturbed where
 * `disturbed` has an 'x'. */
struct script {
    struct world *world;
    const double *costs;
    size_t cost_count, samples;
    const char *disturbed;
    char letter;
};

static uint64_t world_now(void *user)
{
    struct world *w = user;
    if (w->readings_per_step > 0)
        return ++w->readings / w->readings_per_step * w->step;
    if (w->backwards > 0) {
        w->backwards--;
        return w->now -= 1000;
    }
    return w->now;
}

static uint64_t world_disturbances(void *user) { return ((struct world *)user)->disturbances; }

static void script_run(void *arg, size_t iterations)
{
    struct script *s = arg;
    const size_t i = s->samples++;
    const double cost = s->costs[i < s->cost_count ? i : s->cost_count - 1];
    s->world->now += (uint64_t)(cost * (double)iterations);
    if (s->disturbed != NULL && i < strlen(s->disturbed) && s->disturbed[i] == 'x')
        s->world->disturbances++;
    if (s->world->log_count + 1 < sizeof s->world->log)
        s->world->log[s->world->log_count++] = s->letter;
}

static struct mb_measurement measure_one(struct world *world, struct script *script,
                                         struct mb_measure_options options)
{
    const struct mb_clock clock = {world_now, world_disturbances, world};
    const struct mb_timed timed = {.run = script_run, .arg = script};
    struct mb_measurement result;
    memset(&result, 0, sizeof result);
    script->world = world;
    options.clock = &clock;
    assert_int_equal(mb_measure(&timed, 1, &options, &result), MB_OK);
    return result;
}

static void iterations_double_until_the_sample_is_long_enough(void **state)
{
    (void)state;
    const double cost = 10;
    struct world world = {.now = 1000000};
    struct script script = {.costs = &cost, .cost_count = 1};
    const struct mb_measurement r = measure_one(
        &world, &script, (struct mb_measure_options){.sample_ns = 1000, .budget_ns = 1e9});
    assert_int_equal(r.iterations, 128); /* 64 * 10 < 1000 <= 128 * 10 */
    assert_true(r.median_ns == 10 && r.min_ns == 10 && r.mad_ns == 0);
    assert_int_equal(r.samples, 64);
}

static void the_floor_is_the_smallest_step_of_the_clock(void **state)
{
    (void)state;
    struct world world = {.step = 100, .readings_per_step = 7};
    const struct mb_clock clock = {world_now, NULL, &world};
    assert_true(mb_clock_floor_ns(&clock) == 100);
}

static void a_clock_that_stands_still_is_an_error(void **state)
{
    (void)state;
    const double cost = 0;
    struct world world = {0};
    struct script script = {.world = &world, .costs = &cost, .cost_count = 1};
    const struct mb_clock clock = {world_now, NULL, &world};
    const struct mb_timed timed = {.run = script_run, .arg = &script};
    const struct mb_measure_options options = {.clock = &clock, .sample_ns = 100};
    struct mb_measurement result;
    assert_int_equal(mb_measure(&timed, 1, &options, &result), MB_ERR_DEVICE);
    assert_int_equal(mb_measure(&timed, 0, &options, &result), MB_ERR_ARGUMENT);
}

static void median_mad_and_minimum_are_those_of_the_samples(void **state)
{
    (void)state;
    /* The first run grows; then 110 100 130 900 120: median 120, deviations 10 20 10 780 0. */
    const double costs[] = {100, 110, 100, 130, 900, 120};
    struct world world = {.now = 1};
    struct script script = {.costs = costs, .cost_count = 6};
    const struct mb_measurement r =
        measure_one(&world, &script,
                    (struct mb_measure_options){
                        .sample_ns = 1, .samples_min = 5, .samples_max = 5, .budget_ns = 1});
    assert_int_equal(r.iterations, 1);
    assert_int_equal(r.samples, 5);
    assert_true(r.median_ns == 120);
    assert_true(r.mad_ns == 10);
    assert_true(r.min_ns == 100);

    /* An even number: the mean of the middle two; 100 110 130 900 -> 120, deviations 20 10 10 780.
     */
    struct script even = {.costs = costs, .cost_count = 5};
    const struct mb_measurement e =
        measure_one(&world, &even,
                    (struct mb_measure_options){
                        .sample_ns = 1, .samples_min = 4, .samples_max = 4, .budget_ns = 1});
    assert_int_equal(e.samples, 4);
    assert_true(e.median_ns == 120);
    assert_true(e.mad_ns == 15);
}

static void the_budget_ends_a_case_but_not_before_the_least_samples(void **state)
{
    (void)state;
    const double cost = 100;
    struct world world = {.now = 1};
    struct script script = {.costs = &cost, .cost_count = 1};
    struct mb_measurement r = measure_one(
        &world, &script,
        (struct mb_measure_options){.sample_ns = 1, .samples_min = 2, .budget_ns = 1000});
    assert_int_equal(r.samples, 9); /* one of ten was the warm-up */
    struct script poor = {.costs = &cost, .cost_count = 1};
    r = measure_one(&world, &poor,
                    (struct mb_measure_options){.sample_ns = 1, .samples_min = 7, .budget_ns = 1});
    assert_int_equal(r.samples, 7);
}

static void enter_slowly(void *arg)
{
    struct script *s = arg;
    s->world->now += 1000000;
    s->world->log[s->world->log_count++] = '(';
}

static void entering_a_turn_is_not_timed(void **state)
{
    (void)state;
    const double cost = 100;
    struct world world = {.now = 1};
    struct script script = {.world = &world, .costs = &cost, .cost_count = 1, .letter = 'a'};
    const struct mb_clock clock = {world_now, NULL, &world};
    const struct mb_timed timed = {script_run, &script};
    const struct mb_measure_options options = {.clock = &clock,
                                               .sample_ns = 1,
                                               .samples_min = 2,
                                               .samples_max = 2,
                                               .budget_ns = 1,
                                               .enter = enter_slowly};
    struct mb_measurement result;
    assert_int_equal(mb_measure(&timed, 1, &options, &result), MB_OK);
    assert_string_equal(world.log, "(a(a(a");
    assert_true(result.median_ns == 100);
}

static void candidates_take_turns(void **state)
{
    (void)state;
    const double cost = 100;
    struct world world = {.now = 1};
    struct script a = {.world = &world, .costs = &cost, .cost_count = 1, .letter = 'a'};
    struct script b = {.world = &world, .costs = &cost, .cost_count = 1, .letter = 'b'};
    struct script c = {.world = &world, .costs = &cost, .cost_count = 1, .letter = 'c'};
    const struct mb_clock clock = {world_now, NULL, &world};
    const struct mb_timed timed[] = {{script_run, &a}, {script_run, &b}, {script_run, &c}};
    const struct mb_measure_options options = {
        .clock = &clock, .sample_ns = 1, .samples_min = 3, .samples_max = 3, .budget_ns = 1};
    struct mb_measurement results[3];
    assert_int_equal(mb_measure(timed, 3, &options, results), MB_OK);
    /* After growing: another one is first in each round. */
    assert_string_equal(world.log, "abcabcbcacab");
}

static void losers_stop_taking_turns(void **state)
{
    (void)state;
    const double fast = 100, near = 120, slow = 200;
    struct world world = {.now = 1};
    struct script a = {.world = &world, .costs = &slow, .cost_count = 1};
    struct script b = {.world = &world, .costs = &fast, .cost_count = 1};
    struct script c = {.world = &world, .costs = &near, .cost_count = 1};
    const struct mb_clock clock = {world_now, NULL, &world};
    const struct mb_timed timed[] = {{script_run, &a}, {script_run, &b}, {script_run, &c}};
    const struct mb_measure_options options = {.clock = &clock,
                                               .sample_ns = 1,
                                               .samples_min = 4,
                                               .samples_max = 20,
                                               .budget_ns = 1e9,
                                               .drop_ratio = 1.25};
    struct mb_measurement results[3];
    assert_int_equal(mb_measure(timed, 3, &options, results), MB_OK);
    assert_int_equal(results[0].samples, 4);
    assert_int_equal(results[1].samples, 20);
    assert_int_equal(results[2].samples, 20);
    assert_true(results[0].median_ns == 200);
}

static void disturbed_samples_do_not_count(void **state)
{
    (void)state;
    const double costs[] = {100, 100, 9000, 110, 9000, 120, 130};
    struct world world = {.now = 1};
    struct script script = {.costs = costs, .cost_count = 7, .disturbed = "--x-x"};
    const struct mb_measurement r =
        measure_one(&world, &script,
                    (struct mb_measure_options){
                        .sample_ns = 1, .samples_min = 3, .samples_max = 4, .budget_ns = 1e9});
    assert_int_equal(r.samples, 4);
    assert_int_equal(r.disturbed, 2);
    assert_true(r.median_ns == 115); /* 100 110 120 130 */
}

static void with_nothing_but_disturbed_samples_they_count(void **state)
{
    (void)state;
    /* Growth tries eight times for an undisturbed one. */
    const double costs[] = {1, 1, 1, 1, 1, 1, 1, 1, 300, 100, 200};
    struct world world = {.now = 1};
    struct script script = {
        .costs = costs, .cost_count = 11, .disturbed = "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"};
    const struct mb_measurement r =
        measure_one(&world, &script,
                    (struct mb_measure_options){
                        .sample_ns = 1, .samples_min = 2, .samples_max = 3, .budget_ns = 1e9});
    assert_int_equal(r.samples, 3);
    assert_int_equal(r.disturbed, 0);
    assert_true(r.median_ns == 200 && r.min_ns == 100);
}

static void a_mix_of_too_few_clean_samples_uses_all(void **state)
{
    (void)state;
    const double costs[] = {100, 100, 400, 500, 600, 700};
    struct world world = {.now = 1};
    struct script script = {
        .costs = costs, .cost_count = 6, .disturbed = "--xxxxxxxxxxxxxxxxxxxxxxxxxxxx"};
    const struct mb_measurement r =
        measure_one(&world, &script,
                    (struct mb_measure_options){
                        .sample_ns = 1, .samples_min = 4, .samples_max = 4, .budget_ns = 1e9});
    assert_int_equal(r.samples, 5); /* 100 400 500 600 700 */
    assert_true(r.median_ns == 500 && r.min_ns == 100);
}

static void growth_is_not_fooled_by_a_disturbance(void **state)
{
    (void)state;
    const double costs[] = {5000, 10};
    struct world world = {.now = 1};
    struct script script = {.costs = costs, .cost_count = 2, .disturbed = "x"};
    const struct mb_measurement r = measure_one(
        &world, &script, (struct mb_measure_options){.sample_ns = 1000, .budget_ns = 1e9});
    assert_int_equal(r.iterations, 128);

    /* What is long by far is not run again and again. */
    const double ages = 16000;
    struct script slow = {.costs = &ages, .cost_count = 1, .disturbed = "xxxxxxxxxxxxxxxxxxxxxxxx"};
    (void)measure_one(&world, &slow,
                      (struct mb_measure_options){
                          .sample_ns = 1000, .samples_min = 2, .samples_max = 2, .budget_ns = 1});
    assert_int_equal(slow.samples, 1 + 2);
}

static void a_sample_that_ended_before_it_began_is_thrown_away(void **state)
{
    (void)state;
    const double cost = 100;
    struct world world = {.now = 1000000, .backwards = 4};
    struct script script = {.costs = &cost, .cost_count = 1};
    const struct mb_measurement r =
        measure_one(&world, &script,
                    (struct mb_measure_options){
                        .sample_ns = 1, .samples_min = 3, .samples_max = 3, .budget_ns = 1});
    assert_true(r.median_ns == 100 && r.min_ns == 100);

    world.backwards = 1000000;
    struct script again = {.world = &world, .costs = &cost, .cost_count = 1};
    const struct mb_clock clock = {world_now, NULL, &world};
    const struct mb_timed timed = {.run = script_run, .arg = &again};
    const struct mb_measure_options options = {.clock = &clock, .sample_ns = 1};
    struct mb_measurement result;
    world.now = 1000000000000;
    assert_int_equal(mb_measure(&timed, 1, &options, &result), MB_ERR_DEVICE);
}

/* Pairs: the machine's speed halves and doubles from one to the next, in steps of its own. */
static void a_ratio_is_taken_in_pairs(void **state)
{
    (void)state;
    struct world world = {.now = 1};
    const struct mb_clock clock = {world_now, NULL, &world};
    /* First those that find how many iterations make a sample; then one before and behind each. */
    const double own_costs[] = {300, 300, 600, 300, 900},
                 other_costs[] = {100, 100, 100, 300, 100, 500};
    struct script own = {.world = &world, .costs = own_costs, .cost_count = 5, .letter = 'a'};
    struct script other = {.world = &world, .costs = other_costs, .cost_count = 6, .letter = 'b'};
    const struct mb_timed timed = {.run = script_run, .arg = &own},
                          beside = {.run = script_run, .arg = &other};
    struct mb_measure_options options = {
        .clock = &clock, .sample_ns = 1, .budget_ns = 1, .samples_min = 4, .samples_max = 4};
    double ratio;
    assert_int_equal(mb_measure_ratio(&timed, &beside, &options, &ratio), MB_OK);
    assert_string_equal(world.log, "bbababababab");
    /* 200 / 300, 200 / 600, 300 / 300, 500 / 900 */
    assert_true(fabs(ratio - (6.0 / 9 + 5.0 / 9) / 2) < 1e-12);
    /* What is quick is run so often that its samples are as long. */
    const double quick[] = {10}, slow[] = {1000};
    world = (struct world){.now = 1};
    own = (struct script){.world = &world, .costs = quick, .cost_count = 1};
    other = (struct script){.world = &world, .costs = slow, .cost_count = 1};
    assert_int_equal(mb_measure_ratio(&timed, &beside, &options, &ratio), MB_OK);
    assert_true(fabs(ratio - 100) < 1e-9);
    assert_true(world.now > 4 * 2000 && world.now < 40000);
    /* A clock that stands still. */
    const double nothing[] = {0};
    own = other = (struct script){.world = &world, .costs = nothing, .cost_count = 1};
    assert_int_equal(mb_measure_ratio(&timed, &beside, &options, &ratio), MB_ERR_DEVICE);
}

/* ---- what is timed beside a product ---- */

static struct {
    const uint8_t *data;
    size_t bytes;
} reads[16];
static size_t read_count;

static void note_read(const uint8_t *data, size_t bytes, size_t streams, size_t ahead)
{
    assert_int_equal(streams, 2);
    assert_int_equal(ahead, 1024);
    assert_true(read_count < 16);
    reads[read_count].data = data;
    reads[read_count++].bytes = bytes;
}

/* Of memory a slice in each iteration, a cache whole and again, and never past the end. */
static void a_reader_goes_through_its_buffer_slice_by_slice(void **state)
{
    (void)state;
    const size_t slice = (size_t)1 << 26, bytes = 3 * slice + 5000;
    uint8_t *data = malloc(bytes); /* which nobody touches */
    assert_non_null(data);
    struct mb_read_buffer buffer = {.data = data, .bytes = bytes, .readers = 1};
    struct mb_read_case c = {&buffer, note_read, 2, 1024};
    assert_true(mb_read_buffer_shape(&buffer, MB_RESIDENCY_MEMORY));
    assert_int_equal(buffer.slice, slice);
    assert_int_equal(buffer.passes, 1);
    read_count = 0;
    mb_read_case_run(&c, 4);
    assert_int_equal(read_count, 4);
    for (size_t i = 0; i < 4; i++) {
        assert_ptr_equal(reads[i].data, data + i % 3 * slice);
        assert_int_equal(reads[i].bytes, slice);
    }
    assert_true(fabs(mb_read_case_gbps(&c, (double)slice / 32) - 32) < 1e-9);

    buffer = (struct mb_read_buffer){.data = data, .bytes = 1000000, .readers = 1};
    assert_true(mb_read_buffer_shape(&buffer, MB_RESIDENCY_L3));
    assert_int_equal(buffer.slice, 1000000 / 4096 * 4096);
    assert_true(buffer.passes > 1 && buffer.passes <= 16);
    read_count = 0;
    mb_read_case_run(&c, 1);
    assert_int_equal(read_count, buffer.passes);
    assert_int_equal(reads[0].bytes, buffer.slice);
    assert_ptr_equal(reads[read_count - 1].data, data);

    buffer = (struct mb_read_buffer){.data = data, .bytes = 4095, .readers = 1};
    assert_false(mb_read_buffer_shape(&buffer, MB_RESIDENCY_L2));
    free(data);
}

/* 1000 x 320 in q8_0 are 340000 bytes. */
static void a_row_is_judged_by_the_reading_beside_it(void **state)
{
    (void)state;
    struct mb_bench_row row = {.format = MB_FORMAT_Q8_0,
                               .m = 1,
                               .n = 1000,
                               .k = 320,
                               .threads = 1,
                               .residency = MB_RESIDENCY_MEMORY,
                               .median_ns = 20000};
    struct mb_limits limits = {.threads = 1};
    struct mb_beside beside = {.read_gbps = 0};
    struct mb_error error = {0};
    (void)snprintf(row.kernel, sizeof row.kernel, "%s", mb_kernel_for(row.format, 1000, 320, 1));
    limits.read_gbps[MB_RESIDENCY_MEMORY] = 40; /* of a faster phase */
    assert_int_equal(mb_workload_judge(NULL, &limits, 0, &beside, &row, &error), MB_OK);
    assert_int_equal(row.limit, MB_LIMIT_READ);
    assert_true(fabs(row.fraction - 0.425) < 1e-9);
    beside.read_gbps = 17;
    assert_int_equal(mb_workload_judge(NULL, &limits, 0, &beside, &row, &error), MB_OK);
    assert_true(fabs(row.fraction - 1) < 1e-9);
    /* Slower than the product itself, which is no faster than the machine once was. */
    beside.read_gbps = 10;
    row.weight_gbps = 17;
    assert_int_equal(mb_workload_judge(NULL, &limits, 0, &beside, &row, &error), MB_OK);
    assert_true(row.fraction == 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(iterations_double_until_the_sample_is_long_enough),
        cmocka_unit_test(the_floor_is_the_smallest_step_of_the_clock),
        cmocka_unit_test(a_clock_that_stands_still_is_an_error),
        cmocka_unit_test(median_mad_and_minimum_are_those_of_the_samples),
        cmocka_unit_test(the_budget_ends_a_case_but_not_before_the_least_samples),
        cmocka_unit_test(entering_a_turn_is_not_timed),
        cmocka_unit_test(candidates_take_turns),
        cmocka_unit_test(losers_stop_taking_turns),
        cmocka_unit_test(disturbed_samples_do_not_count),
        cmocka_unit_test(with_nothing_but_disturbed_samples_they_count),
        cmocka_unit_test(a_mix_of_too_few_clean_samples_uses_all),
        cmocka_unit_test(growth_is_not_fooled_by_a_disturbance),
        cmocka_unit_test(a_sample_that_ended_before_it_began_is_thrown_away),
        cmocka_unit_test(a_ratio_is_taken_in_pairs),
        cmocka_unit_test(a_reader_goes_through_its_buffer_slice_by_slice),
        cmocka_unit_test(a_row_is_judged_by_the_reading_beside_it),
    };
    return cmocka_run_group_tests_name("tuner measure", tests, NULL, NULL);
}
