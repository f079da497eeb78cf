"""How the keys of providers and code hosts begin."""

KEY_PREFIXES = (
    *("sk-", "sk-or-v1-", "pk-", "pk_live_", "rk_", "gsk_", "xai-", "hf_", "nvapi-", "AIza", "AQ."),
    *("ghp_", "gho_", "github_pat_", "glpat-", "xoxb-", "AKIA", "gm_", "whsec_", "eyJ"),
)
