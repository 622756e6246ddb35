"""An external delegate: a shared library, compiled here, that takes ABS operators and no others."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.requirements_for_tests import skip_or_fail

# The C interface of TFLite (tensorflow/lite/core/c/common.h), as far as it goes. The option `refuse` makes it fail.
SOURCE = r"""
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
typedef struct { int size; int data[]; } Ints;
typedef struct {
  int type; void *data; Ints *dims; float scale; int zero_point; int allocation_type; size_t bytes;
  void *allocation; const char *name; void *delegate; int handle; char stale, variable;
  int quantization; void *quantization_params; void *sparsity; Ints *signature;
} Tensor;
typedef struct { Ints *inputs, *outputs; } Node;
typedef struct Context Context;
typedef struct {
  void *init, *free; int (*prepare)(Context *, Node *); int (*invoke)(Context *, Node *); void *profiling_string;
  int32_t builtin_code; const char *custom_name; int version; void *rest[8];
} Registration;
struct Context {
  size_t tensors_size; int (*plan)(Context *, Ints **); Tensor *tensors; void *impl, *resize, *report, *add;
  int (*node)(Context *, int, Node **, Registration **);
  int (*replace)(Context *, Registration, const Ints *, void *);
};
typedef struct { void *data; int (*prepare)(Context *, void *); void *from, *to, *free; int64_t flags; void *opaque; }
  Delegate;
static int ready(Context *context, Node *node) { return 0; }
static int absolute(Context *context, Node *node) {
  Tensor *in = &context->tensors[node->inputs->data[0]], *out = &context->tensors[node->outputs->data[0]];
  for (size_t at = 0; at < in->bytes / 4; at++) ((float *)out->data)[at] = fabsf(((float *)in->data)[at]);
  return 0;
}
static int take(Context *context, void *delegate) {
  Ints *plan, *taken;
  if (context->plan(context, &plan)) return 1;
  taken = malloc(sizeof(Ints) + plan->size * sizeof(int));
  taken->size = 0;
  for (int at = 0; at < plan->size; at++) {
    Node *node; Registration *registration;
    if (context->node(context, plan->data[at], &node, &registration)) return 1;
    if (registration->builtin_code == 101) taken->data[taken->size++] = plan->data[at];
  }
  Registration kernel = {0, 0, ready, absolute, 0, 51, "OnlyAbs", 1};
  int status = context->replace(context, kernel, taken, delegate);
  free(taken);
  return status;
}
Delegate *tflite_plugin_create_delegate(char **keys, char **values, size_t options, void (*say)(const char *)) {
  for (size_t at = 0; at < options; at++)
    if (!strcmp(keys[at], "refuse")) { say(values[at]); return 0; }
  Delegate *made = calloc(1, sizeof(Delegate));
  made->prepare = take;
  return made;
}
void tflite_plugin_destroy_delegate(Delegate *delegate) { free(delegate); }
"""


def build(folder: Path) -> Path:
    """The library, in this folder."""
    compiler = shutil.which("cc")
    if compiler is None:
        skip_or_fail("there is no C compiler (cc) to make a delegate with")
    source, library = folder / "delegate.c", folder / "libdelegate.so"
    source.write_text(SOURCE)
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-lm"], check=True)
    return library
