/* SPDX-License-Identifier: Apache-2.0 */
/* What a device has to offer for the rest of mixbit to run products on it.
 *
 * A backend is one table of functions: the CPU, OpenCL and whatever follows. Tuner, bench and
 * evaluator hold such a table and never ask which one it is. Four kinds of things live on a device:
 * weights (packed on the host, uploaded once), inputs (activations as kernels read them), outputs,
 * and the kernels that make the one from the other two; the device's memory is behind opaque
 * pointers of the backend's own, the host's data come and go through read and write.
 *
 * Work is queued in order: multiply returns at once where the device is another processor, finish
 * waits, and so does reading an output. Errors are a status with one line that names the device and
 * what it refused; after MB_ERR_DEVICE the device is to be closed.
 *
 * A device is used by one thread at a time; several may be open. */
#ifndef MIXBIT_DISPATCH_BACKEND_H
#define MIXBIT_DISPATCH_BACKEND_H

#include "mixbit/codebook.h"
#include "mixbit/device.h"
#include "mixbit/matmul.h"
#include "mixbit/profile.h"

#include <stdbool.h>

/* Codebook matrices are all served alike: the format that kernels of them are asked for by. */
enum { MB_BACKEND_CODEBOOK = MB_FORMAT_CB4 };

struct mb_backend_device;
struct mb_backend_weights;
struct mb_backend_input;
struct mb_backend_output;

/* One way to run a product. Name, revision and knobs are what a profile keeps of it. */
struct mb_backend_kernel {
    char name[72];
    unsigned revision;
    size_t knobs[MB_KNOB_COUNT];
    unsigned own[4]; /* the backend's: how it finds the kernel again */
};

/* y = x * w for the first m rows of an input. */
struct mb_backend_product {
    const struct mb_backend_kernel *kernel; /* NULL: the default one for this format and m */
    const struct mb_backend_weights *weights;
    const struct mb_backend_input *input;
    struct mb_backend_output *output;
    size_t m;
};

struct mb_backend {
    const char *name; /* what a user writes: "opencl" in --device opencl:0 */
    /* Relative error against f64 up to which its products are right where that is more than a
     * format's own bound: another runtime rounds activations its own way. 0: it runs our kernels.
     */
    double error_bound;

    /* Devices that can be opened now. MB_ERR_UNSUPPORTED and the reason where there is none and
     * cannot be one (no loader, no platform, not in this build); *count is 0 then. */
    enum mb_status (*list)(size_t *count, struct mb_error *error);
    /* The device as profiles know it: for a GPU cores are compute units, os holds the driver, and
     * caches that it does not tell are 0. MB_ERR_ARGUMENT past the end. */
    enum mb_status (*describe)(size_t index, struct mb_device_info *info, struct mb_error *error);

    enum mb_status (*open)(size_t index, struct mb_backend_device **device, struct mb_error *error);
    void (*close)(struct mb_backend_device *device); /* NULL allowed; its objects go first */

    /* The i-th kernel for a product, the default one first; false past the end. */
    bool (*kernel_at)(const struct mb_backend_device *device, enum mb_format format, size_t n,
                      size_t k, size_t m, size_t i, struct mb_backend_kernel *kernel);

    /* Whether a profile's kernel is one that kernel_at still gives for the format. NULL: the CPU,
     * whose kernels are the registry's. */
    bool (*is_current)(const char *kernel, unsigned revision, enum mb_format format);

    /* Weights as mb_pack_rows left them; the host's copy may go afterwards unless the backend is
     * the CPU, which keeps the pointer. MB_ERR_MEMORY when the device has no room. */
    enum mb_status (*upload)(struct mb_backend_device *device, const struct mb_weights *weights,
                             struct mb_backend_weights **uploaded, struct mb_error *error);
    /* The same of a codebook matrix; its kernels are those of MB_BACKEND_CODEBOOK. Its memory
     * stays as long as rows are prepared for it. NULL, and so is input_of_codebook: a backend
     * without kernels for them, or the CPU, which has its own way. */
    enum mb_status (*upload_codebook)(struct mb_backend_device *device,
                                      const struct mb_codebook_weights *weights,
                                      struct mb_backend_weights **uploaded, struct mb_error *error);
    void (*free_weights)(struct mb_backend_weights *weights);

    /* Room for m rows of k activations of a type, and for m rows of n results. */
    enum mb_status (*input_create)(struct mb_backend_device *device, enum mb_activation type,
                                   size_t m, size_t k, struct mb_backend_input **input,
                                   struct mb_error *error);
    /* *input (NULL: none yet) becomes room for m rows as one codebook matrix wants them, which is
     * what they are prepared for from now on. It is kept where it has the room. */
    enum mb_status (*input_of_codebook)(const struct mb_backend_weights *weights, size_t m,
                                        struct mb_backend_input **input, struct mb_error *error);
    /* Prepare rows [0, m) of x (x_stride floats apart) and bring them to the device. */
    enum mb_status (*input_write)(struct mb_backend_input *input, const float *x, size_t x_stride,
                                  size_t m, struct mb_error *error);
    void (*input_free)(struct mb_backend_input *input);
    enum mb_status (*output_create)(struct mb_backend_device *device, size_t m, size_t n,
                                    struct mb_backend_output **output, struct mb_error *error);
    /* Wait for what was queued and copy rows [0, m). */
    enum mb_status (*output_read)(struct mb_backend_output *output, float *y, size_t y_stride,
                                  size_t m, struct mb_error *error);
    void (*output_free)(struct mb_backend_output *output);

    /* Queue one product. Shapes that do not fit each other: MB_ERR_SHAPE, nothing is queued. */
    enum mb_status (*multiply)(struct mb_backend_device *device,
                               const struct mb_backend_product *product, struct mb_error *error);
    /* Wait for all of it. *busy_ns (NULL allowed) is how long the device was at it since the last
     * finish, by its own clock (where Level Zero has none, by the host's), from the first kernel's
     * start to the last one's end; 0: there is none. */
    enum mb_status (*finish)(struct mb_backend_device *device, double *busy_ns,
                             struct mb_error *error);

    /* Read `piece` bytes (0: all) of a buffer of about *set bytes `passes` times, each time the
     * next ones, with a kernel that does nothing else: *set becomes what the buffer has, *busy_ns
     * is of all passes, as of finish. What products with few rows are compared with. NULL: a
     * backend that has no such measure. */
    enum mb_status (*read_memory)(struct mb_backend_device *device, size_t *set, size_t piece,
                                  size_t passes, double *busy_ns, struct mb_error *error);
};

/* busy_ns of finish for a backend whose device has no clock of its own: the host's, from the first
 * begin to the last end since it was taken. All 0 at first. */
struct mb_host_clock {
    uint64_t begin_ns, end_ns;
};
void mb_host_clock_begin(struct mb_host_clock *clock);
void mb_host_clock_end(struct mb_host_clock *clock);
double mb_host_clock_take(struct mb_host_clock *clock);

extern const struct mb_backend mb_backend_cpu, mb_backend_opencl, mb_backend_level_zero;

/* An open device other than the CPU, with the table that it is used through. Wherever one is asked
 * for, NULL is the CPU, which has its own way (registry, selections, a pool of threads). */
struct mb_accelerator {
    const struct mb_backend *backend;
    struct mb_backend_device *device;
    struct mb_device_info info;
};
/* Open what a user named ("opencl:0"); *accelerator NULL for NULL and "cpu". */
enum mb_status mb_accelerator_open(const char *text, struct mb_accelerator **accelerator,
                                   struct mb_error *error);
void mb_accelerator_close(struct mb_accelerator *accelerator); /* NULL allowed */

/* The i-th backend of this build, the CPU first; NULL past the end. */
const struct mb_backend *mb_backend_at(size_t i);
/* Add one that a program brings along (another runtime's kernels), once, before any is used. */
void mb_backend_register(const struct mb_backend *backend);
/* Whether some backend other than the CPU has this kernel for the format. */
bool mb_backend_has_kernel(const char *kernel, unsigned revision, enum mb_format format);
/* "cpu", "opencl" or "opencl:1": backend and index of the device (0 where none is written), which
 * need not exist. MB_ERR_ARGUMENT and the known names. */
enum mb_status mb_backend_parse(const char *text, const struct mb_backend **backend, size_t *index,
                                struct mb_error *error);

/* The device of this machine that a profile's may be: of its backend, the one with its key, else
 * the first. MB_ERR_UNSUPPORTED and the reason where there is none. */
enum mb_status mb_backend_like(const struct mb_device_info *theirs, struct mb_device_info *here,
                               struct mb_error *error);

#endif
