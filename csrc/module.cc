// The extension gpt_oss.backends.cpu._native. Only binds; README.md of this folder says where things are.
#include <nanobind/stl/map.h>
#include <nanobind/stl/string.h>

#include <map>
#include <string>

#include "bindings.h"

NB_MODULE(_native, m) {
  // Of CMakeLists.txt: the commit that was built (empty where nobody knew), instruction sets compiled for, compiler.
  m.def("build_info", [] {
    return std::map<std::string, std::string>{
        {"commit", GPT_OSS_COMMIT}, {"kernels", GPT_OSS_KERNELS}, {"compiler", GPT_OSS_COMPILER}};
  });
  gpt_oss::bind_kernels(m);
  gpt_oss::bind_ops(m);
  gpt_oss::bind_unembed(m);
  gpt_oss::bind_model(m);
}
