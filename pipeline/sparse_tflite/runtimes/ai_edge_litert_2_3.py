"""ai-edge-litert 2.3: LiteRT's interpreter, tflite-runtime's successor."""

from __future__ import annotations

from pipeline.sparse_tflite.clusters import Rules
from pipeline.sparse_tflite.fitness import FitnessRules
from pipeline.sparse_tflite.runtimes import CONVOLUTIONS, CUSTOMS, BreakEven, Runtime, Storage, by_last, named

# The last version of each operator, tried by files of rising versions.
VERSIONS = {
    1: (
        "ADD_N ASSIGN_VARIABLE ATAN2 BITCAST BITWISE_XOR BROADCAST_ARGS BUCKETIZE CALL_ONCE CEIL COMPLEX_ABS "
        "CONV_3D CONV_3D_TRANSPOSE CUMSUM DENSIFY DILATE ELU EMBEDDING_LOOKUP_SPARSE EXPAND_DIMS FLOOR "
        "HARD_SWISH HASHTABLE HASHTABLE_FIND HASHTABLE_IMPORT HASHTABLE_LOOKUP HASHTABLE_SIZE IF IMAG "
        "L2_POOL_2D LOCAL_RESPONSE_NORMALIZATION LOGICAL_AND LOGICAL_NOT LOGICAL_OR LSH_PROJECTION "
        "MATRIX_DIAG MATRIX_SET_DIAG MULTINOMIAL NEG NON_MAX_SUPPRESSION_V4 NON_MAX_SUPPRESSION_V5 ONE_HOT "
        "POW PRELU RANDOM_STANDARD_NORMAL RANDOM_UNIFORM RANK READ_VARIABLE REAL REDUCE_ALL REDUCE_ANY "
        "REDUCE_WINDOW RELU_0_TO_1 RELU_N1_TO_1 RESHAPE REVERSE_SEQUENCE RFFT2D RIGHT_SHIFT ROUND SCATTER_ND "
        "SEGMENT_SUM SHAPE SKIP_GRAM SQUARE STABLEHLO_ADD STABLEHLO_AND STABLEHLO_CASE STABLEHLO_COMPOSITE "
        "STABLEHLO_GATHER STABLEHLO_MAXIMUM STABLEHLO_MINIMUM STABLEHLO_MULTIPLY STABLEHLO_PAD "
        "STABLEHLO_REDUCE_WINDOW STABLEHLO_RNG_BIT_GENERATOR STABLEHLO_SCATTER STABLEHLO_SHIFT_LEFT UNIQUE "
        "UNSORTED_SEGMENT_MAX UNSORTED_SEGMENT_MIN UNSORTED_SEGMENT_PROD UNSORTED_SEGMENT_SUM VAR_HANDLE "
        "WHILE ZEROS_LIKE"
    ),
    2: (
        "COS DEPTH_TO_SPACE DIV EXP FAKE_QUANT FLOOR_MOD GREATER L2_NORMALIZATION LEAKY_RELU LESS_EQUAL LOG "
        "LOG_SOFTMAX RANGE REDUCE_PROD SELECT_V2 SIGN SIN SPACE_TO_DEPTH SQRT SQUARED_DIFFERENCE SQUEEZE SUM "
        "WHERE"
    ),
    3: (
        "ARG_MAX ARG_MIN AVERAGE_POOL_2D BIDIRECTIONAL_SEQUENCE_LSTM BIDIRECTIONAL_SEQUENCE_RNN FLOOR_DIV "
        "GELU GREATER_EQUAL LESS LOGISTIC MAX_POOL_2D MEAN MIRROR_PAD REDUCE_MAX REDUCE_MIN RELU RELU6 RNN "
        "RSQRT SPARSE_TO_DENSE SPLIT_V TANH TILE TOPK_V2 UNIDIRECTIONAL_SEQUENCE_RNN"
    ),
    4: (
        "BATCH_MATMUL BATCH_TO_SPACE_ND BROADCAST_TO LSTM MAXIMUM MINIMUM NOT_EQUAL RESIZE_BILINEAR "
        "RESIZE_NEAREST_NEIGHBOR REVERSE_V2 SELECT SOFTMAX SPACE_TO_BATCH_ND SVDF "
        "UNIDIRECTIONAL_SEQUENCE_LSTM"
    ),
    5: "ABS EMBEDDING_LOOKUP EQUAL FILL PACK SPLIT SUB TRANSPOSE_CONV",
    6: "ADD DYNAMIC_UPDATE_SLICE GATHER_ND PAD PADV2 QUANTIZE UNPACK",
    7: "CONCATENATION DEPTHWISE_CONV_2D",
    8: "CONV_2D GATHER MUL SLICE STRIDED_SLICE",
    9: "CAST DEQUANTIZE TRANSPOSE",
    14: "FULLY_CONNECTED",
}
UNDELEGATED = "loading fails: XNNPACK takes the operator and then cannot delegate it"
# Tried on layers of 512 x 512 at rising shares of zeros, one thread; the Arm cores were emulated, so these are careful.
BREAK_EVEN: BreakEven = {
    ("x86", "fc_1x4"): 0.85,
    ("x86", "fc_unstructured"): 0.95,
    ("arm", "fc_1x4"): 0.4,
    ("arm", "fc_unstructured"): 0.6,
    ("arm", "fc_1x16"): 0.3,
    ("arm-fp16", "fc_1x4"): 0.4,
    ("arm-fp16", "fc_unstructured"): 0.6,
    ("arm-fp16", "fc_1x16"): 0.3,
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
    Storage(
        ("FULLY_CONNECTED",),
        "float16",
        "fc_1x4",
        "wrong",
        "blocks of half-precision weights give NaN, or crash",
    ),
    Storage(("CONV_2D", "TRANSPOSE_CONV"), "dynamic_range", "csr_densify", "refused", UNDELEGATED),
    Storage(("DEPTHWISE_CONV_2D",), "dynamic_range", "csr_densify", "densified"),
    Storage(("FULLY_CONNECTED",), "dynamic_range", "csr_densify", "refused", UNDELEGATED),
    Storage(
        ("FULLY_CONNECTED",),
        "dynamic_range",
        "fc_1x16",
        "wrong",
        "blocks of 16 with float inputs answer wrongly",
    ),
    Storage(CONVOLUTIONS, "int8", "csr_densify", "densified"),
    # XNNPACK leaves this version to the runtime's own kernel.
    Storage(("FULLY_CONNECTED",), "int8", "csr_densify", "densified", UNDELEGATED, version=8),
    Storage(("FULLY_CONNECTED",), "int8", "fc_1x16", "kernel", "read by a kernel for blocks of 16 inputs"),
)

RUNTIME = Runtime(
    name="ai-edge-litert",
    release="2.3",
    versions=dict(by_last(VERSIONS)) | {"BROADCAST_TO": (2, 4)},
    customs=CUSTOMS,
    storage=STORAGE,
    xnnpack=Rules(
        delegated=named(
            "ABS ADD AVERAGE_POOL_2D BATCH_MATMUL CEIL CONCATENATION CONV_2D COS DEPTHWISE_CONV_2D "
            "DEPTH_TO_SPACE DIV ELU EXP EXPAND_DIMS FLOOR FULLY_CONNECTED GELU HARD_SWISH LEAKY_RELU LOG LOGISTIC "
            "MAX_POOL_2D MAXIMUM MEAN MINIMUM MUL NEG PAD PRELU RELU RELU6 RELU_0_TO_1 RELU_N1_TO_1 RESHAPE "
            "RESIZE_BILINEAR ROUND RSQRT SIGN SIN SLICE SOFTMAX SPACE_TO_DEPTH SPLIT SQRT SQUARE SQUARED_DIFFERENCE "
            "STRIDED_SLICE SUB SUM TANH TRANSPOSE TRANSPOSE_CONV"
        ),
        fitness=FitnessRules(
            unary=named(
                "ABS CEIL COS ELU EXP FLOOR GELU HARD_SWISH LEAKY_RELU LOG LOGISTIC NEG RELU RELU6 RELU_0_TO_1 "
                "RELU_N1_TO_1 ROUND RSQRT SIGN SIN SQRT SQUARE TANH"
            ),
            reductions=named("MEAN SUM"),
            any_axes=True,
            fully_connected=True,
        ),
        convolution_ends=False,
    ),
    sparse_cores=frozenset({"arm", "arm-fp16"}),
    break_even=BREAK_EVEN,
)
