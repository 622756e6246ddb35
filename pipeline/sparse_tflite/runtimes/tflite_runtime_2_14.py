"""tflite-runtime 2.14: TensorFlow 2.14's interpreter, the last wheel of that name."""

from __future__ import annotations

from pipeline.sparse_tflite.clusters import Rules
from pipeline.sparse_tflite.fitness import FitnessRules
from pipeline.sparse_tflite.runtimes import CONVOLUTIONS, CUSTOMS, BreakEven, Runtime, Storage, by_last, named

# The last version of each operator, tried by files of rising versions.
VERSIONS = {
    1: (
        "ADD_N ASSIGN_VARIABLE ATAN2 BITCAST BITWISE_XOR BROADCAST_ARGS BUCKETIZE CALL_ONCE CEIL COMPLEX_ABS "
        "CONV_3D CONV_3D_TRANSPOSE COS CUMSUM DENSIFY DYNAMIC_UPDATE_SLICE ELU EMBEDDING_LOOKUP_SPARSE "
        "EXPAND_DIMS FLOOR HARD_SWISH HASHTABLE HASHTABLE_FIND HASHTABLE_IMPORT HASHTABLE_LOOKUP "
        "HASHTABLE_SIZE IF IMAG L2_POOL_2D LOCAL_RESPONSE_NORMALIZATION LOG LOGICAL_AND LOGICAL_NOT "
        "LOGICAL_OR LSH_PROJECTION MATRIX_DIAG MATRIX_SET_DIAG MULTINOMIAL NEG NON_MAX_SUPPRESSION_V4 "
        "NON_MAX_SUPPRESSION_V5 ONE_HOT POW PRELU RANDOM_STANDARD_NORMAL RANDOM_UNIFORM RANK READ_VARIABLE "
        "REAL REDUCE_ALL REDUCE_ANY RELU_0_TO_1 RELU_N1_TO_1 RESHAPE REVERSE_SEQUENCE RFFT2D RIGHT_SHIFT "
        "ROUND SCATTER_ND SEGMENT_SUM SHAPE SIN SKIP_GRAM SQRT SQUARE UNIQUE UNSORTED_SEGMENT_MAX "
        "UNSORTED_SEGMENT_MIN UNSORTED_SEGMENT_PROD UNSORTED_SEGMENT_SUM VAR_HANDLE WHILE ZEROS_LIKE"
    ),
    2: (
        "DEPTH_TO_SPACE DIV EXP FAKE_QUANT FLOOR_MOD GELU GREATER L2_NORMALIZATION LEAKY_RELU LESS_EQUAL "
        "LOG_SOFTMAX RANGE REDUCE_PROD RSQRT SELECT_V2 SIGN SPACE_TO_DEPTH SPLIT_V SQUARED_DIFFERENCE SQUEEZE "
        "SUM WHERE"
    ),
    3: (
        "ARG_MAX ARG_MIN AVERAGE_POOL_2D BIDIRECTIONAL_SEQUENCE_LSTM BIDIRECTIONAL_SEQUENCE_RNN BROADCAST_TO "
        "EMBEDDING_LOOKUP FLOOR_DIV GREATER_EQUAL LESS LOGISTIC MAX_POOL_2D MEAN MIRROR_PAD NOT_EQUAL "
        "QUANTIZE REDUCE_MAX REDUCE_MIN RELU RELU6 REVERSE_V2 RNN SOFTMAX SPARSE_TO_DENSE TANH TILE TOPK_V2 "
        "UNIDIRECTIONAL_SEQUENCE_RNN"
    ),
    4: (
        "BATCH_MATMUL BATCH_TO_SPACE_ND CONCATENATION EQUAL FILL GATHER_ND LSTM MAXIMUM MINIMUM PACK PAD "
        "PADV2 RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR SELECT SPACE_TO_BATCH_ND SPLIT SVDF TRANSPOSE_CONV "
        "UNIDIRECTIONAL_SEQUENCE_LSTM UNPACK"
    ),
    5: "ABS ADD CAST DEQUANTIZE SUB",
    6: "GATHER SLICE TRANSPOSE",
    7: "CONV_2D DEPTHWISE_CONV_2D MUL",
    8: "STRIDED_SLICE",
    10: "FULLY_CONNECTED",
}
# Tried on layers of 512 x 512 at rising shares of zeros, one thread; the Arm cores were emulated, so these are careful.
BREAK_EVEN: BreakEven = {
    ("x86", "fc_1x4"): 0.9,
    ("x86", "fc_unstructured"): 0.93,
    ("arm", "fc_1x4"): 0.6,
    ("arm", "fc_unstructured"): 0.75,
    ("arm-fp16", "fc_1x4"): 0.6,
    ("arm-fp16", "fc_unstructured"): 0.75,
}
STORAGE = (
    Storage(CONVOLUTIONS, "float32", "csr_densify", "densified"),
    Storage(("FULLY_CONNECTED",), "float32", "csr_densify", "densified"),
    Storage(("FULLY_CONNECTED",), "float32", "fc_1x4", "kernel", "read by a kernel for blocks of 4 inputs"),
    Storage(
        ("FULLY_CONNECTED",), "float32", "fc_unstructured", "kernel", "read by a kernel for single weights"
    ),
    Storage(CONVOLUTIONS, "float16", "csr_densify", "densified"),
    Storage(("FULLY_CONNECTED",), "float16", "csr_densify", "densified"),
    Storage(("FULLY_CONNECTED",), "float16", "fc_1x4", "wrong", "blocks of half-precision weights give NaN"),
    Storage(("CONV_2D", "DEPTHWISE_CONV_2D"), "dynamic_range", "csr_densify", "densified"),
    Storage(
        ("TRANSPOSE_CONV",), "dynamic_range", "dense", "refused", "it takes weights of its input's type only"
    ),
    Storage(CONVOLUTIONS, "int8", "csr_densify", "densified"),
    Storage(("FULLY_CONNECTED",), "int8", "csr_densify", "densified"),
    Storage(
        ("FULLY_CONNECTED",), "int8", "fc_1x16", "wrong", "blocks of 16 integers give zeros, and no error"
    ),
)

RUNTIME = Runtime(
    name="tflite-runtime",
    release="2.14",
    versions=dict(by_last(VERSIONS)) | {"BROADCAST_TO": (2, 3)},
    customs=CUSTOMS,
    storage=STORAGE,
    xnnpack=Rules(
        delegated=named(
            "ABS ADD AVERAGE_POOL_2D CEIL CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEPTH_TO_SPACE DIV ELU "
            "EXPAND_DIMS FLOOR FULLY_CONNECTED HARD_SWISH LEAKY_RELU LOGISTIC MAX_POOL_2D MAXIMUM MEAN MINIMUM MUL "
            "NEG PAD PRELU RELU RELU6 RELU_0_TO_1 RELU_N1_TO_1 RESHAPE RESIZE_BILINEAR ROUND SLICE SOFTMAX "
            "SPACE_TO_DEPTH SPLIT SQRT SQUARE SQUARED_DIFFERENCE STRIDED_SLICE SUB TANH TRANSPOSE TRANSPOSE_CONV"
        ),
        fitness=FitnessRules(
            unary=named(
                "ABS CEIL ELU FLOOR HARD_SWISH LEAKY_RELU LOGISTIC NEG RELU RELU6 RELU_0_TO_1 RELU_N1_TO_1 "
                "ROUND SQUARE"
            ),
            reductions=named("MEAN"),
            any_axes=False,
            fully_connected=False,
        ),
        convolution_ends=True,
    ),
    # Its XNNPACK looks for half-precision kernels before it goes sparse in single precision, too.
    sparse_cores=frozenset({"arm-fp16"}),
    break_even=BREAK_EVEN,
    # With a scale for each output, it reads the bias that is not there.
    needs_bias=frozenset({"arm", "arm-fp16"}),
)
