// What each *_bindings.cc adds to the module.
#pragma once

#include <nanobind/nanobind.h>

namespace gpt_oss {

void bind_kernels(nanobind::module_& m);  // kernel_bindings.cc: matrix products, thread pool, instruction sets
void bind_ops(nanobind::module_& m);      // op_bindings.cc: what lies between them
void bind_unembed(nanobind::module_& m);  // unembed_bindings.cc: drawing a token from a hidden state
void bind_model(nanobind::module_& m);    // model_bindings.cc: the forward pass

}  // namespace gpt_oss
