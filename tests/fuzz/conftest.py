"""How long the fuzz takes."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "long",
    settings.get_profile("emoguard"),
    max_examples=5000,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
