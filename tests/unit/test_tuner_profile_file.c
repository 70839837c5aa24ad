/* SPDX-License-Identifier: Apache-2.0 */
/* Profile files: what is written comes back; what is not a whole, sound profile loads nothing and
 * says why. Damaged files are made from a good one by cutting its text or replacing one value. */
#include "mixbit/profile.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <math.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char folder[] = "/tmp/mixbit-profile-XXXXXX";
static char path[64];

static struct mb_cost sample_cost(void)
{
    return (struct mb_cost){.kernel = "gemv_b4_g32_i8g32_8x16_reference",
                            .revision = 3,
                            .format = MB_FORMAT_Q4_0,
                            .n = 768,
                            .k = 256,
                            .m = 1,
                            .threads = 2,
                            .activation = MB_ACTIVATION_I8G32,
                            .residency = MB_RESIDENCY_L3,
                            .knobs = {[MB_KNOB_STEP] = 2},
                            .median_ns = 1234.5,
                            .mad_ns = 0.1,
                            .min_ns = 1200.25,
                            .prepare_ns = 99.9,
                            .bytes = (size_t)768 * 256 / 32 * 18,
                            .error = 0.0043};
}

static struct mb_fixed_cost sample_fixed_cost(void)
{
    return (struct mb_fixed_cost){.model = "40b4ace3320a45dbbb2cad1cf3aa20a3",
                                  .threads = 2,
                                  .context = 512,
                                  .revision = 1,
                                  .decode_ns = 72044.7,
                                  .prefill_ns = 22698.25,
                                  .decode_scale = 1.125,
                                  .prefill_scale = 1.25,
                                  .kv_bytes = 3145728};
}

static struct mb_profile *sample_profile(void)
{
    struct mb_profile *profile;
    struct mb_cost cost = sample_cost();
    struct mb_fixed_cost fixed = sample_fixed_cost();
    assert_int_equal(mb_profile_create(&profile), MB_OK);
    struct mb_limits *limits = mb_profile_limits(profile);
    limits->threads = 2;
    limits->read_gbps[MB_RESIDENCY_MEMORY] = 36.1;
    limits->read_gbps_1[MB_RESIDENCY_L2] = 117.2;
    limits->dot_gmacs[1] = 470.5;
    limits->dot_exact_gmacs[1] = 235.25;
    limits->fma_gmacs[0] = 13;
    limits->dispatch_ns = 155;
    limits->clock_ghz = 3.7;
    limits->per_cycle.read_1[MB_RESIDENCY_L3] = 27.5;
    limits->per_cycle.dot[1] = 63.9;
    assert_int_equal(mb_profile_put(profile, &cost), MB_OK);
    cost.residency = MB_RESIDENCY_MEMORY;
    cost.m = 512;
    cost.failed = 1;
    cost.median_ns = cost.mad_ns = cost.min_ns = cost.prepare_ns = 0;
    cost.error = 2.5;
    assert_int_equal(mb_profile_put(profile, &cost), MB_OK);
    assert_int_equal(mb_profile_put_fixed_cost(profile, &fixed), MB_OK);
    fixed.context = 1024;
    fixed.rough = 1;
    assert_int_equal(mb_profile_put_fixed_cost(profile, &fixed), MB_OK);
    return profile;
}

static void write_text(const char *text, size_t bytes)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
}

static char *read_text(size_t *bytes)
{
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    *bytes = (size_t)ftell(file);
    rewind(file);
    char *text = calloc(*bytes + 1, 1);
    assert_int_equal(fread(text, 1, *bytes, file), *bytes);
    fclose(file);
    return text;
}

static int set_up(void **state)
{
    (void)state;
    if (mkdtemp(folder) == NULL)
        return 1;
    snprintf(path, sizeof path, "%s/p.json", folder);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    (void)remove(path);
    return rmdir(folder);
}

static void save_sample(void)
{
    struct mb_error error;
    struct mb_profile *profile = sample_profile();
    assert_int_equal(mb_profile_save(profile, path, &error), MB_OK);
    mb_profile_free(profile);
}

static void what_is_saved_is_loaded(void **state)
{
    (void)state;
    struct mb_error error;
    struct mb_profile *saved = sample_profile(), *loaded;
    assert_int_equal(mb_profile_save(saved, path, &error), MB_OK);
    assert_int_equal(mb_profile_load(path, &loaded, &error), MB_OK);
    const struct mb_device_info *a = mb_profile_device(saved), *b = mb_profile_device(loaded);
    assert_string_equal(a->key, b->key);
    assert_string_equal(a->features, b->features);
    assert_string_equal(a->os, b->os);
    assert_string_equal(a->build, b->build);
    assert_string_equal(b->backend, "cpu");
    assert_int_equal(a->l3_bytes, b->l3_bytes);
    assert_int_equal(a->core_kinds, b->core_kinds);
    assert_int_equal(a->kinds[0].cores, b->kinds[0].cores);
    assert_memory_equal(mb_profile_limits(saved), mb_profile_limits(loaded),
                        sizeof(struct mb_limits));
    assert_int_equal(mb_profile_count(loaded), 2);
    for (size_t i = 0; i < 2; i++) {
        const struct mb_cost *x = mb_profile_at(saved, i), *y = mb_profile_at(loaded, i);
        assert_string_equal(x->kernel, y->kernel);
        assert_int_equal(x->revision, y->revision);
        assert_int_equal(x->format, y->format);
        assert_true(x->n == y->n && x->k == y->k && x->m == y->m && x->threads == y->threads);
        assert_int_equal(x->activation, y->activation);
        assert_int_equal(x->residency, y->residency);
        assert_memory_equal(x->knobs, y->knobs, sizeof x->knobs);
        /* Doubles come back to the bit. */
        assert_true(x->median_ns == y->median_ns && x->mad_ns == y->mad_ns &&
                    x->min_ns == y->min_ns && x->prepare_ns == y->prepare_ns &&
                    x->error == y->error);
        assert_true(x->bytes == y->bytes && x->failed == y->failed);
    }
    assert_null(mb_profile_at(loaded, 2));
    assert_int_equal(mb_profile_fixed_count(loaded), 2);
    for (size_t i = 0; i < 2; i++) {
        const struct mb_fixed_cost *x = mb_profile_fixed_at(saved, i);
        const struct mb_fixed_cost *y = mb_profile_fixed_cost(loaded, x);
        assert_non_null(y);
        assert_true(x->decode_ns == y->decode_ns && x->prefill_ns == y->prefill_ns &&
                    x->kv_bytes == y->kv_bytes && x->rough == y->rough &&
                    x->decode_scale == y->decode_scale && x->prefill_scale == y->prefill_scale);
    }
    assert_null(mb_profile_fixed_at(loaded, 2));
    mb_profile_free(saved);
    mb_profile_free(loaded);
}

/* Loading fails with this status, gives no profile and one line that holds `expected`. */
static void expect_refusal(const char *what, const char *expected)
{
    struct mb_error error = {.message = ""};
    struct mb_profile *profile = (struct mb_profile *)&error;
    const enum mb_status status = mb_profile_load(path, &profile, &error);
    if (status == MB_OK)
        fail_msg("accepted: %s", what);
    assert_null(profile);
    assert_int_equal(status, error.status);
    if (strstr(error.message, expected) == NULL || strchr(error.message, '\n') != NULL)
        fail_msg("%s: '%s' lacks '%s' or is not one line", what, error.message, expected);
}

static void every_cut_is_refused(void **state)
{
    (void)state;
    size_t bytes;
    save_sample();
    char *text = read_text(&bytes);
    while (bytes > 0 && (text[bytes - 1] == '\n' || text[bytes - 1] == '}'))
        bytes--; /* without its newline alone a file is whole */
    for (size_t cut = 0; cut <= bytes; cut++) {
        char what[64];
        snprintf(what, sizeof what, "the first %zu bytes", cut);
        write_text(text, cut);
        expect_refusal(what, "p.json:");
    }
    free(text);
}

static void a_cut_says_the_line(void **state)
{
    (void)state;
    size_t bytes;
    struct mb_error error;
    struct mb_profile *profile;
    save_sample();
    char *text = read_text(&bytes);
    size_t lines = 0, at = 0;
    while (lines < 10)
        lines += text[at++] == '\n';
    write_text(text, at + 8);
    assert_int_equal(mb_profile_load(path, &profile, &error), MB_ERR_FILE);
    assert_int_equal(error.where, 11);
    free(text);
}

/* One value replaced: in the object at root[object] (or in entry 0 of it), under key, by JSON text;
 * "" removes it. */
static const struct {
    const char *object, *key, *value, *expected;
} damages[] = {
    {"", "schema", "\"mixbit-plan\"", "schema"},
    {"", "schema", "7", "schema"},
    {"", "schema", "", "schema"},
    {"", "version", "1", "version"},
    {"", "version", "3", "version"},
    {"", "version", "\"2\"", "version"},
    {"", "version", "2.0", "version"},
    {"", "device", "[]", "device"},
    {"", "device", "", "device"},
    {"", "limits", "null", "limits"},
    {"", "entries", "{}", "entries"},
    {"", "entries", "", "entries"},
    {"", "entries", "[1]", "entries[0]"},
    {"", "entries", "[{}]", "entries[0]"},
    {"device", "key", "5", "key"},
    {"device", "vendor", "\"longer than the thirty-one letters there is room for\"", "vendor"},
    {"device", "family", "-1", "family"},
    {"device", "family", "4294967296", "family"},
    {"device", "cores", "1.5", "cores"},
    {"device", "l3_bytes", "\"32M\"", "l3_bytes"},
    {"device", "core_kinds", "[{},{},{},{},{}]", "core_kinds"},
    {"device", "core_kinds", "[{\"name\":\"p\"}]", "cores"},
    {"device", "os", "", "os"},
    {"device", "backend", "5", "backend"},
    {"device", "backend", "\"more than fifteen\"", "backend"},
    {"limits", "threads", "-2", "threads"},
    {"limits", "read_gbps", "{\"L2\":1,\"L3\":1}", "memory"},
    {"limits", "read_gbps_1", "3", "L2"},
    {"limits", "dot_gmacs", "[]", "dot_gmacs"},
    {"limits", "dot_gmacs", "{\"reference\":-1}", "reference"},
    {"limits", "fma_gmacs", "{\"reference\":\"x\"}", "reference"},
    {"limits", "dispatch_ns", "1e300", "dispatch_ns"},
    {"limits", "clock_ghz", "-1", "clock_ghz"},
    {"limits", "per_cycle", "", "L2"},
    {"limits", "per_cycle", "{\"read\":{\"L2\":1}}", "L3"},
    {"entries", "kernel", "\"\"", "kernel"},
    {"entries", "kernel", "null", "kernel"},
    {"entries", "revision", "99999999999", "revision"},
    {"entries", "format", "\"q9_Z\"", "format"},
    {"entries", "format", "2", "format"},
    {"entries", "n", "0", "n"},
    {"entries", "n", "1152921504606846976", "n"},
    {"entries", "k", "33", "k"},
    {"entries", "m", "0", "m"},
    {"entries", "m", "-1", "m"},
    {"entries", "threads", "0", "threads"},
    {"entries", "activation", "\"i9\"", "activation"},
    {"entries", "residency", "\"l2\"", "residency"},
    {"entries", "knobs", "", "knobs"},
    {"entries", "knobs", "[]", "knobs"},
    {"entries", "knobs", "{\"step\":-1}", "step"},
    {"entries", "knobs", "{\"step\":1.5}", "step"},
    {"entries", "knobs", "{\"k_block\":65537}", "knobs"},
    {"entries", "knobs", "{\"unroll\":2}", "knobs"},
    {"entries", "bytes", "1", "bytes"},
    {"entries", "median_ns", "0", "median_ns"},
    {"entries", "median_ns", "-5", "median_ns"},
    {"entries", "median_ns", "\"5\"", "median_ns"},
    {"entries", "median_ns", "1e16", "median_ns"},
    {"entries", "median_ns", "1200", "median_ns"}, /* below the minimum */
    {"entries", "min_ns", "0", "min_ns"},
    {"entries", "mad_ns", "-0.5", "mad_ns"},
    {"entries", "prepare_ns", "true", "prepare_ns"},
    {"entries", "error", "-1", "error"},
    {"entries", "error", "", "error"},
    {"entries", "failed", "0", "failed"},
    {"entries", "failed", "", "failed"},
    {"", "fixed", "5", "fixed"},
    {"fixed", "model", "\"\"", "model"},
    {"fixed", "model", "\"a hash of more than thirty-two digits\"", "model"},
    {"fixed", "threads", "0", "threads"},
    {"fixed", "context", "0", "context"},
    {"fixed", "context", "1024", "twice"},
    {"fixed", "revision", "-1", "revision"},
    {"fixed", "rough", "1", "rough"},
    {"fixed", "decode_ns", "-1", "decode_ns"},
    {"fixed", "prefill_ns", "1e300", "prefill_ns"},
    {"fixed", "kv_bytes", "", "kv_bytes"},
    {"fixed", "decode_scale", "-1", "decode_scale"},
    {"fixed", "prefill_scale", "1e9", "prefill_scale"},
};

static void every_damaged_value_is_refused(void **state)
{
    (void)state;
    size_t bytes;
    save_sample();
    char *text = read_text(&bytes);
    for (size_t i = 0; i < sizeof damages / sizeof damages[0]; i++) {
        char what[256];
        snprintf(what, sizeof what, "%s.%s = %s", damages[i].object, damages[i].key,
                 damages[i].value);
        json_t *root = json_loads(text, 0, NULL), *object = root;
        if (damages[i].object[0] != '\0')
            object = json_object_get(root, damages[i].object);
        if (json_is_array(object))
            object = json_array_get(object, 0);
        assert_non_null(json_object_get(object, damages[i].key));
        if (damages[i].value[0] == '\0') {
            json_object_del(object, damages[i].key);
        } else {
            json_t *value = json_loads(damages[i].value, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
            assert_non_null(value);
            json_object_set_new(object, damages[i].key, value);
        }
        char *damaged = json_dumps(root, 0);
        write_text(damaged, strlen(damaged));
        expect_refusal(what, damages[i].expected);
        free(damaged);
        json_decref(root);
    }
    free(text);
}

/* What a JSON library would not even write. */
static void text_that_is_no_profile_is_refused(void **state)
{
    (void)state;
    static const char *const texts[] = {"",
                                        "\n",
                                        "null",
                                        "[]",
                                        "{}",
                                        "{\"schema\":\"mixbit-profile\",\"version\":NaN}",
                                        "{\"schema\":\"mixbit-profile\",\"version\":1e999}",
                                        "{\"schema\":\"mixbit-profile\",\"schema\":\"x\"}",
                                        "GGUF\3\0\0\0"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        write_text(texts[i], strlen(texts[i]));
        expect_refusal(texts[i], "p.json");
    }
    (void)remove(path);
    expect_refusal("no file", "p.json");
}

static void nan_among_the_times_is_refused(void **state)
{
    (void)state;
    size_t bytes;
    save_sample();
    char *text = read_text(&bytes);
    char *at = strstr(text, "1234.5");
    assert_non_null(at);
    memcpy(at, "   NaN", 6);
    write_text(text, bytes);
    expect_refusal("NaN", "p.json:");
    memcpy(at, "1e9999", 6);
    write_text(text, bytes);
    expect_refusal("1e9999", "p.json:");
    free(text);
}

static void two_entries_of_one_key_are_refused(void **state)
{
    (void)state;
    size_t bytes;
    save_sample();
    char *text = read_text(&bytes);
    json_t *root = json_loads(text, 0, NULL);
    json_t *entries = json_object_get(root, "entries");
    json_t *twin = json_deep_copy(json_array_get(entries, 0));
    json_object_set_new(twin, "median_ns", json_real(5000));
    json_array_append_new(entries, twin);
    char *damaged = json_dumps(root, 0);
    write_text(damaged, strlen(damaged));
    expect_refusal("a twin", "twice");
    free(damaged);
    json_decref(root);
    free(text);
}

static void fixed_costs_are_found_by_their_whole_key(void **state)
{
    (void)state;
    struct mb_profile *profile = sample_profile();
    struct mb_fixed_cost key = sample_fixed_cost();
    assert_true(mb_profile_fixed_cost(profile, &key)->decode_ns == key.decode_ns);
    key.decode_ns = 5;
    assert_int_equal(mb_profile_put_fixed_cost(profile, &key), MB_OK);
    assert_int_equal(mb_profile_fixed_count(profile), 2);
    assert_true(mb_profile_fixed_cost(profile, &key)->decode_ns == 5);
    key.threads = 3;
    assert_null(mb_profile_fixed_cost(profile, &key));
    key.threads = 2;
    key.revision++;
    assert_null(mb_profile_fixed_cost(profile, &key));
    key.revision--;
    key.model[0] = 'f';
    assert_null(mb_profile_fixed_cost(profile, &key));
    key.prefill_ns = NAN;
    assert_int_equal(mb_profile_put_fixed_cost(profile, &key), MB_ERR_ARGUMENT);
    mb_profile_free(profile);
}

static void what_a_profile_may_not_hold_is_not_put_there(void **state)
{
    (void)state;
    struct mb_profile *profile;
    assert_int_equal(mb_profile_create(&profile), MB_OK);
    struct mb_cost cost = sample_cost();
    cost.median_ns = NAN;
    assert_int_equal(mb_profile_put(profile, &cost), MB_ERR_ARGUMENT);
    cost = sample_cost();
    cost.error = INFINITY;
    assert_int_equal(mb_profile_put(profile, &cost), MB_ERR_ARGUMENT);
    cost = sample_cost();
    cost.format = (enum mb_format)9999;
    assert_int_equal(mb_profile_put(profile, &cost), MB_ERR_ARGUMENT);
    cost = sample_cost();
    memset(cost.kernel, 'x', sizeof cost.kernel);
    assert_int_equal(mb_profile_put(profile, &cost), MB_ERR_ARGUMENT);
    assert_int_equal(mb_profile_count(profile), 0);
    mb_profile_free(profile);
}

static void saving_where_it_cannot_be_says_so(void **state)
{
    (void)state;
    struct mb_error error = {.message = ""};
    struct mb_profile *profile = sample_profile();
    assert_int_equal(mb_profile_save(profile, "/nonexistent-folder/p.json", &error), MB_ERR_IO);
    assert_non_null(strstr(error.message, "/nonexistent-folder/p.json"));
    mb_profile_free(profile);
}

static void the_default_path_follows_the_environment(void **state)
{
    (void)state;
    struct mb_device_info device = {.size = sizeof device};
    char expected[512];
    assert_int_equal(mb_device_info(&device), MB_OK);
    setenv("HOME", "/home/u", 1);
    setenv("MIXBIT_PROFILE", "mine.json", 1);
    setenv("XDG_CACHE_HOME", "/cache", 1);
    char *found = mb_profile_default_path();
    assert_string_equal(found, "mine.json");
    free(found);
    unsetenv("MIXBIT_PROFILE");
    found = mb_profile_default_path();
    snprintf(expected, sizeof expected, "/cache/mixbit/profiles/%s.json", device.key);
    assert_string_equal(found, expected);
    free(found);
    setenv("XDG_CACHE_HOME", "relative", 1);
    found = mb_profile_default_path();
    snprintf(expected, sizeof expected, "/home/u/.cache/mixbit/profiles/%s.json", device.key);
    assert_string_equal(found, expected);
    free(found);
}

static void without_home_the_user_database_says(void **state)
{
    (void)state;
    const struct passwd *user = getpwuid(getuid());
    struct mb_device_info device = {.size = sizeof device};
    char expected[512];
    if (user == NULL || user->pw_dir[0] == '\0') {
        print_message("skipped: this user is in no database\n");
        skip();
    }
    assert_int_equal(mb_device_info(&device), MB_OK);
    snprintf(expected, sizeof expected, "%s/.cache/mixbit/profiles/%s.json", user->pw_dir,
             device.key);
    unsetenv("MIXBIT_PROFILE");
    unsetenv("XDG_CACHE_HOME");
    unsetenv("HOME");
    for (int empty = 0; empty < 2; empty++) {
        char *found = mb_profile_default_path();
        assert_string_equal(found, expected);
        free(found);
        setenv("HOME", "", 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_saved_is_loaded),
        cmocka_unit_test(every_cut_is_refused),
        cmocka_unit_test(a_cut_says_the_line),
        cmocka_unit_test(every_damaged_value_is_refused),
        cmocka_unit_test(text_that_is_no_profile_is_refused),
        cmocka_unit_test(nan_among_the_times_is_refused),
        cmocka_unit_test(two_entries_of_one_key_are_refused),
        cmocka_unit_test(fixed_costs_are_found_by_their_whole_key),
        cmocka_unit_test(what_a_profile_may_not_hold_is_not_put_there),
        cmocka_unit_test(saving_where_it_cannot_be_says_so),
        cmocka_unit_test(the_default_path_follows_the_environment),
        cmocka_unit_test(without_home_the_user_database_says),
    };
    return cmocka_run_group_tests_name("tuner profile files", tests, set_up, tear_down);
}
