"""Which operators does each importer read, and on which types of their first input?

A word with a dot has its domain before it. Where the facts are from stands at each table.
"""

Operators = dict[str, frozenset[str]]  # operator -> types


def _read(groups: dict[str, str]) -> Operators:
    """Turn lists of types with the operators that take them into operators with their types."""
    return {name: frozenset(types.split()) for types, names in groups.items() for name in names.split()}


def _without(operators: Operators, *names: str) -> Operators:
    return {name: types for name, types in operators.items() if name not in names}


# onnx-tensorrt docs/operators.md at 8.5, and what docs/Changelog.md says was added in 8.6 EA: GroupNormalization,
# IsInf, LayerNormalization, int32 in ArgMax, ArgMin and TopK. uint8 in Cast: Changelog at 8.5 (inputs and outputs).
TENSORRT_8_6 = _read(
    {
        "float32 float16": (
            "Acos Acosh Asin Asinh Atan Atanh BatchNormalization Ceil Celu Cos Cosh CumSum Dropout Einsum Erf Exp "
            "Floor GRU GridSample GroupNormalization ImageScaler InstanceNormalization IsInf LRN LSTM "
            "LayerNormalization Log LogSoftmax LpNormalization MatMul MeanVarianceNormalization NonMaxSuppression "
            "NonZero Pow QuantizeLinear RNN RandomNormal RandomNormalLike RandomUniform RandomUniformLike "
            "Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd "
            "ReduceSum ReduceSumSquare Resize ReverseSequence RoiAlign Scan Sin Sinh Softmax Sqrt Tan Upsample"
        ),
        "float32 float16 int32": (
            "Abs Add ArgMax ArgMin DepthToSpace Div Equal Greater GreaterOrEqual IsNaN Less LessOrEqual Max Mean "
            "Min Mod Mul Neg Range Shrink SpaceToDepth Sub Sum TopK"
        ),
        "float32 float16 int32 bool": "Expand EyeLike Flatten If Loop OneHot Split Tile Where",
        "float32 float16 int8": (
            "Clip Conv ConvTranspose Elu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool HardSigmoid HardSwish "
            "LeakyRelu LpPool MaxPool PRelu ParametricSoftplus Relu Round ScaledTanh Selu Sigmoid Softplus "
            "Softsign Tanh ThresholdedRelu"
        ),
        "float32 float16 int8 int32": "AveragePool Pad Scatter ScatterElements ScatterND Sign",
        "float32 float16 int8 int32 bool": (
            "Concat Constant Gather GatherElements GatherND Identity Reshape Shape Size Slice Squeeze Transpose "
            "Trilu Unsqueeze"
        ),
        "float32 float16 int8 uint8 int32 bool": "Cast",
        "float32": "ConstantOfShape",
        "int8": "DequantizeLinear",
        "bool": "And Not Or Xor",
    }
)

# onnx-tensorrt docs/operators.md at 10.15.
TENSORRT_10_15 = _read(
    {
        "float32 float16 bfloat16": (
            "Acos Acosh Asin Asinh Atan Atanh AveragePool BatchNormalization Ceil Celu Clip Conv ConvTranspose "
            "Cos Cosh CumSum Dropout Einsum Elu Erf Exp Floor GRU Gemm GlobalAveragePool GlobalLpPool "
            "GlobalMaxPool GroupNormalization HardSigmoid HardSwish Hardmax ImageScaler InstanceNormalization "
            "IsInf LRN LSTM LayerNormalization LeakyRelu Log LogSoftmax LpNormalization LpPool MatMul MaxPool "
            "MeanVarianceNormalization PRelu ParametricSoftplus QuantizeLinear RMSNormalization RNN RandomNormal "
            "RandomNormalLike RandomUniform RandomUniformLike Reciprocal Resize RotaryEmbedding Round ScaledTanh "
            "Scan Selu Sigmoid Sin Sinh Softmax Softplus Softsign Sqrt Tan Tanh ThresholdedRelu Upsample"
        ),
        "float32 float16 bfloat16 int32 int64": (
            "Abs Add ArgMax ArgMin DepthToSpace Div Equal Greater GreaterOrEqual IsNaN Less LessOrEqual Max Min "
            "Mod Mul Neg Pad Pow Range ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean "
            "ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Scatter ScatterElements ScatterND Shrink Sign "
            "SpaceToDepth Sub Sum TopK"
        ),
        "float32 float16 bfloat16 int32 int64 bool": (
            "Concat Expand EyeLike Flatten Gather GatherElements GatherND Identity If Loop OneHot Reshape "
            "ReverseSequence Shape Size Slice Split Squeeze Tile Transpose Trilu Unsqueeze Where"
        ),
        "float32 float16 bfloat16 uint8 int32 int64 bool": "Cast CastLike",
        "float32 float16 bfloat16 int32 int64 bool float8e4m3fn": "Constant ConstantOfShape",
        "float32 float16 bfloat16 int8 int32 int64": "Gelu",
        "float32 float16 bfloat16 int32 int64 float8e4m3fn": "Mean",
        "float32 float16 bfloat16 int8 float8e4m3fn": "Attention",
        "float32 float16 bfloat16 int32": "TensorScatter",
        "int8 float8e4m3fn": "DequantizeLinear",
        "float32 float16": (
            "BlackmanWindow DeformConv GridSample HammingWindow HannWindow Mish NonMaxSuppression NonZero RoiAlign"
        ),
        "float32": "STFT",
        "bool": "And Not Or Xor",
    }
)

# docs/Changelog.md: Attention came with 10.14, the other three with 10.15.
TENSORRT_10_13 = _without(TENSORRT_10_15, "Attention", "RMSNormalization", "RotaryEmbedding", "TensorScatter")
# docs/Changelog.md: the windows came with 10.4, STFT with 10.5, integers in Pow with 10.8 and 10.12.
TENSORRT_10_3 = _without(TENSORRT_10_13, "BlackmanWindow", "HammingWindow", "HannWindow", "STFT") | {
    "Pow": TENSORRT_10_13["Sqrt"]
}

# The kernels that ONNX Runtime 1.22.0, the oldest that this project takes, registers on the CPU for opset 22, and the
# operators without a kernel that it expands into others: each loaded as a graph of its own (ONNX's own node tests).
ONNXRUNTIME = _read(
    {
        "float32": (
            "Acos Acosh Asin Asinh Atan Atanh AveragePool Celu CenterCropPad Col2Im Conv ConvTranspose Cos Cosh "
            "Det Elu Erf Gelu GlobalAveragePool GlobalLpPool GlobalMaxPool GroupNormalization HardSigmoid "
            "HardSwish Hardmax InstanceNormalization LRN LeakyRelu LpPool MaxRoiPool MaxUnpool Mean "
            "MeanVarianceNormalization Mish Multinomial NegativeLogLikelihoodLoss PRelu RNN Scatter Selu Sinh "
            "SoftmaxCrossEntropyLoss Softplus Softsign Tan ThresholdedRelu Upsample com.microsoft.Attention "
            "com.microsoft.BeamSearch com.microsoft.BiasGelu com.microsoft.ConvTransposeWithDynamicPads "
            "com.microsoft.CropAndResize com.microsoft.DecoderMaskedMultiHeadAttention "
            "com.microsoft.DynamicQuantizeLSTM com.microsoft.DynamicQuantizeMatMul "
            "com.microsoft.DynamicTimeWarping com.microsoft.EmbedLayerNormalization com.microsoft.FastGelu "
            "com.microsoft.FusedConv com.microsoft.FusedGemm com.microsoft.FusedMatMul com.microsoft.Gelu "
            "com.microsoft.GreedySearch com.microsoft.GridSample com.microsoft.MatMulBnb4 "
            "com.microsoft.MatMulFpQ4 com.microsoft.MaxpoolWithMask com.microsoft.MultiHeadAttention "
            "com.microsoft.NGramRepeatBlock com.microsoft.Pad com.microsoft.QEmbedLayerNormalization "
            "com.microsoft.QGemm com.microsoft.QuantizeLinear com.microsoft.QuickGelu com.microsoft.SampleOp "
            "com.microsoft.Sampling com.microsoft.TransposeMatMul com.microsoft.Unique "
            "com.microsoft.WhisperBeamSearch"
        ),
        "float32 float64": (
            "AffineGrid BatchNormalization Ceil DFT Dropout Exp Floor GRU Gemm GridSample LSTM Log LogSoftmax "
            "RandomNormal RandomUniform Reciprocal STFT Sigmoid Sin Softmax SpaceToDepth Sqrt Sum Tanh "
            "com.microsoft.AttnLSTM com.microsoft.CDist"
        ),
        "float32 float16 bfloat16 float64 int8 uint8 int32 int64 bool": (
            "Compress Concat Flatten Gather GatherElements GatherND Optional OptionalGetElement "
            "OptionalHasElement RandomNormalLike RandomUniformLike ReverseSequence ScatterElements ScatterND "
            "SequenceConstruct Slice Split Squeeze Unsqueeze com.microsoft.ExpandDims com.microsoft.GatherND "
            "com.microsoft.UnfoldTensor"
        ),
        "float32 float64 int32 int64": (
            "CumSum Einsum EyeLike MatMul Pow Range ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMean "
            "ReduceProd ReduceSum ReduceSumSquare TopK com.microsoft.MurmurHash3 com.microsoft.Range"
        ),
        "int8 uint8": (
            "MatMulInteger QLinearConv QLinearMatMul com.microsoft.MatMulIntegerToFloat com.microsoft.NhwcMaxPool "
            "com.microsoft.QLinearAdd com.microsoft.QLinearConv com.microsoft.QLinearLeakyRelu "
            "com.microsoft.QLinearMul com.microsoft.QLinearSigmoid com.microsoft.QLinearSoftmax "
            "com.microsoft.QLinearWhere"
        ),
        "float32 float64 int8 uint8 int32 int64": (
            "Abs Add ArgMax ArgMin Div Greater GreaterOrEqual Less LessOrEqual Mul Sub"
        ),
        "float32 float16 bfloat16 float64 int8 uint8 int32 int64 bool float8e4m3fn": (
            "Cast CastLike Identity Reshape Scan Shape Transpose"
        ),
        "float32 float64 int8 uint8 int32 int64 bool": "Equal Pad ReduceMax ReduceMin Size Tile",
        "bool": "And If Not Or Xor",
        "uint8": (
            "BitShift ConvInteger DynamicQuantizeLinear com.microsoft.GatherBlockQuantized com.microsoft.QAttention"
        ),
        "int32 int64": "BlackmanWindow HammingWindow HannWindow MelWeightMatrix TfIdfVectorizer",
        "float32 float16": (
            "QuantizeLinear com.microsoft.GroupQueryAttention com.microsoft.MatMulNBits "
            "com.microsoft.RotaryEmbedding com.microsoft.SparseAttention"
        ),
        "float32 float16 float64": (
            "LayerNormalization Round com.microsoft.Inverse com.microsoft.SkipLayerNormalization "
            "com.microsoft.SkipSimplifiedLayerNormalization"
        ),
        "int8 uint8 int32 int64": "BitwiseAnd BitwiseNot BitwiseOr BitwiseXor",
        "int64": "ConstantOfShape Loop com.microsoft.BifurcationDetector",
        "float32 float16 float64 int32 int64": "Max Min SplitToSequence",
        "float32 float16 float64 int8 uint8 int32 int64": "Clip Mod",
        "float32 float16 bfloat16 float64 float8e4m3fn": "IsInf IsNaN",
        "float32 float16 bfloat16 float64 int8 uint8 int32 int64": "Shrink Sign",
        "float32 float64 uint8": "DepthToSpace",
        "int8 uint8 int32 float8e4m3fn": "DequantizeLinear",
        "int8 uint8 int32": "com.microsoft.DequantizeLinear",
        "float32 float16 float64 int8 uint8 int32 int64 bool": "Expand",
        "float32 float64 int8 uint8": "MaxPool",
        "float32 float64 int8 int32 int64": "Neg",
        "float32 uint8 int32 int64 bool": "NonZero",
        "float32 int32 int64": "OneHot",
        "float32 float64 int8 int32": "Relu",
        "float32 int8 uint8 int32": "Resize",
        "float32 float64 int64 bool": "Trilu",
        "float32 float64 int64": "com.microsoft.Trilu",
        "float32 float64 int8 int64": "Unique",
        "float32 float64 uint8 int32 int64": "Where",
        "int32": "com.microsoft.WordConvEmbedding",
    }
)

# Every operator of which OpenVINO 2025.0.0, the oldest that this project takes, read at least one of ONNX's own node
# tests. Its importer looks at no types; which of them its CPU plug-in computes was tried for the operators used here.
OPENVINO = _read(
    {
        "float32 float16 bfloat16 float64 int8 uint8 int32 int64 bool": (
            "Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Bernoulli "
            "BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor BlackmanWindow Cast CastLike Ceil Celu "
            "CenterCropPad Clip Compress Concat Constant ConstantOfShape Conv ConvInteger ConvTranspose Cos Cosh "
            "CumSum DFT DepthToSpace Div Dropout DynamicQuantizeLinear Einsum Elu Equal Erf Exp Expand EyeLike "
            "Flatten Floor GRU Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool Greater "
            "GreaterOrEqual GridSample HammingWindow HannWindow HardSigmoid HardSwish Hardmax Identity If "
            "InstanceNormalization IsInf IsNaN LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual Log "
            "LogSoftmax Loop LpNormalization MatMul MatMulInteger Max MaxPool Mean MeanVarianceNormalization Min "
            "Mish Mod Mul Neg NegativeLogLikelihoodLoss NonMaxSuppression NonZero Not OneHot Or PRelu Pad Pow "
            "QLinearConv QLinearMatMul RNN Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp "
            "ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize "
            "ReverseSequence RoiAlign Round Scan Scatter ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign "
            "Sin Sinh Size Slice Softmax SoftmaxCrossEntropyLoss Softplus Softsign SpaceToDepth Split Sqrt "
            "Squeeze Sub Sum Swish Tan Tanh ThresholdedRelu Tile TopK Transpose Trilu Unique Unsqueeze Upsample "
            "Where Xor"
        ),
        "float32": "QuantizeLinear",
        "int8 uint8": "DequantizeLinear",
    }
)
