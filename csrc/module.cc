// The extension gpt_oss.backends.cpu._native. Only binds; README.md of this folder says where things are.
#include "bindings.h"

NB_MODULE(_native, m) {
  gpt_oss::bind_kernels(m);
  gpt_oss::bind_ops(m);
  gpt_oss::bind_unembed(m);
  gpt_oss::bind_model(m);
}
