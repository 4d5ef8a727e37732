// Lets the CPU build of torch pass tensors of device `cuda` around: switching devices does nothing.
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace {
struct PretendedCuda final : c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA> {};
}  // namespace

C10_REGISTER_GUARD_IMPL(CUDA, PretendedCuda)
