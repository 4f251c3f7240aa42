"""What a secret looks like."""

import re

# Tokens of the services that a training job talks to, and passwords inside URLs. The prefixes are the providers' own.
SECRET = re.compile(
    r"\bhf_[A-Za-z0-9]{16,}|\bgh[pousr]_[A-Za-z0-9]{20,}|\bsk-[A-Za-z0-9_-]{20,}|\bAKIA[0-9A-Z]{16}\b"
    r"|\bwandb_v1_[A-Za-z0-9_-]{20,}|\bgithub_pat_[A-Za-z0-9_]{30,}|\bAIza[A-Za-z0-9_-]{35}|\bGOCSPX-[A-Za-z0-9_-]{20,}"
    r"|\bnpm_[A-Za-z0-9]{36}|\bxapp-\d-[A-Za-z0-9-]{20,}|\bhvs\.[A-Za-z0-9_-]{20,}|\bdop_v1_[a-f0-9]{64}"
    r"|\bdapi[a-f0-9]{32}|\bdckr_pat_[A-Za-z0-9_-]{20,}|\bnvapi-[A-Za-z0-9_-]{40,}|\bATATT3[A-Za-z0-9_=-]{50,}"
    r"|\bshp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}|\b[A-Za-z0-9]{14}\.atlasv1\.[A-Za-z0-9_-]{60,}"
    r"|\b[a-zA-Z][a-zA-Z0-9+.-]*://(?:[^/\s:@]*:[^/\s]+|[^/\s:@]{16,})@"
    r"|[?&](?:token|access_token|api_key|key|sig|signature|X-Amz-Signature|X-Amz-Credential|X-Amz-Security-Token)=[^&\s]{8,}"
)
