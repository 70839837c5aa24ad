/* SPDX-License-Identifier: Apache-2.0 */
/* The execution provider of one session, and what its parts share. */
#ifndef MIXBIT_PLUGIN_ORT_PROVIDER_H
#define MIXBIT_PLUGIN_ORT_PROVIDER_H

#include "node.h"

enum { MB_ORT_TYPES = 2 }; /* of activations */
#define MB_ORT_PROVIDER "MixbitExecutionProvider"

/* A host that takes providers. */
struct mb_ort_provider_host {
    const struct ort_table *table;
    struct ort_api api;
    struct ort_graph_api graph;
    struct ort_provider_api provider;
};

struct mb_ort_provider;

/* What the host hands back when a kernel of a definition is to be created. */
struct mb_ort_definition {
    const struct mb_ort_provider *provider;
    int type; /* of activations */
};

struct mb_ort_provider {
    struct ort_provider table; /* first: the host hands out pointers to it */
    const struct mb_ort_provider_host *host;
    const struct ort_logger *logger; /* of the session */
    enum mb_ort_accuracy wish;
    bool packs_early; /* the session has no step for packing */
    struct mb_ort_definition definitions[MB_ORT_TYPES];
    struct ort_registry *registry;
};

/* Tells the host which nodes of a graph this provider takes. */
struct ort_status *mb_ort_claim_nodes(const struct mb_ort_provider *provider,
                                      const struct ort_graph *graph, struct ort_support *support);
/* Fills provider->definitions and ->registry, which is to be released. */
struct ort_status *mb_ort_make_registry(struct mb_ort_provider *provider);

#endif
