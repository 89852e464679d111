// Compares bqc_ort_abi.h with an official onnxruntime_c_api.h (any API level from 18); compiling it is the
// test.
#include <onnxruntime_c_api.h>

#include <cstddef>

#include "bqc_ort_abi.h"

#define SLOT(mine, theirs) static_assert(offsetof(OrtApi, theirs) == bqc::ort::mine * sizeof(void*), #theirs)
SLOT(kCreateStatus, CreateStatus);
SLOT(kErrorMessage, GetErrorMessage);
SLOT(kCreateDomain, CreateCustomOpDomain);
SLOT(kDomainAddOp, CustomOpDomain_Add);
SLOT(kOptionsAddDomain, AddCustomOpDomain);
SLOT(kTensorData, GetTensorMutableData);
SLOT(kShapeCreate, CreateTensorTypeAndShapeInfo);
SLOT(kShapeSetType, SetTensorElementType);
SLOT(kShapeSetDims, SetDimensions);
SLOT(kShapeGetType, GetTensorElementType);
SLOT(kShapeRank, GetDimensionsCount);
SLOT(kShapeGetDims, GetDimensions);
SLOT(kShapeGetSymbols, GetSymbolicDimensions);
SLOT(kTensorShape, GetTensorTypeAndShape);
SLOT(kInfoFloat, KernelInfoGetAttribute_float);
SLOT(kInfoInt, KernelInfoGetAttribute_int64);
SLOT(kInfoString, KernelInfoGetAttribute_string);
SLOT(kContextInputCount, KernelContext_GetInputCount);
SLOT(kContextInput, KernelContext_GetInput);
SLOT(kContextOutput, KernelContext_GetOutput);
SLOT(kStatusRelease, ReleaseStatus);
SLOT(kShapeRelease, ReleaseTensorTypeAndShapeInfo);
SLOT(kInfoNodeName, KernelInfo_GetNodeName);
SLOT(kInfoConstantInput, KernelInfoGetConstantInput_tensor);
SLOT(kInferInputShape, ShapeInferContext_GetInputTypeShape);
SLOT(kInferAttribute, ShapeInferContext_GetAttribute);
SLOT(kInferSetOutputShape, ShapeInferContext_SetOutputTypeShape);
SLOT(kShapeSetSymbols, SetSymbolicDimensions);
SLOT(kReadAttribute, ReadOpAttr);
SLOT(kParallelFor, KernelContext_ParallelFor);

#define FIELD(mine, theirs) \
  static_assert(offsetof(OrtCustomOp, theirs) == offsetof(bqc::ort::Op, mine), #theirs)
FIELD(level, version);
FIELD(create_v1, CreateKernel);
FIELD(name, GetName);
FIELD(provider, GetExecutionProviderType);
FIELD(input_type, GetInputType);
FIELD(input_count, GetInputTypeCount);
FIELD(output_type, GetOutputType);
FIELD(output_count, GetOutputTypeCount);
FIELD(compute_v1, KernelCompute);
FIELD(destroy, KernelDestroy);
FIELD(input_arity, GetInputCharacteristic);
FIELD(output_arity, GetOutputCharacteristic);
FIELD(input_memory, GetInputMemoryType);
FIELD(variadic_in_min, GetVariadicInputMinArity);
FIELD(variadic_in_same, GetVariadicInputHomogeneity);
FIELD(variadic_out_min, GetVariadicOutputMinArity);
FIELD(variadic_out_same, GetVariadicOutputHomogeneity);
FIELD(create, CreateKernelV2);
FIELD(compute, KernelComputeV2);
FIELD(infer, InferOutputShapeFn);
FIELD(since, GetStartVersion);
FIELD(until, GetEndVersion);
FIELD(inplace, GetMayInplace);
FIELD(inplace_release, ReleaseMayInplace);
FIELD(alias, GetAliasMap);
FIELD(alias_release, ReleaseAliasMap);
static_assert(sizeof(OrtApiBase) == sizeof(bqc::ort::ApiBase));
static_assert(static_cast<int>(ORT_OP_ATTR_INT) == static_cast<int>(bqc::ort::AttributeType::integer));
static_assert(static_cast<int>(ORT_OP_ATTR_FLOAT) == static_cast<int>(bqc::ort::AttributeType::real));
static_assert(ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 == static_cast<int>(bqc::ort::Type::i64));
