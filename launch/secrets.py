"""What a secret looks like."""

import re

# Tokens of the services that a training job talks to, and passwords inside URLs. The prefixes are the providers' own.
SECRET = re.compile(
    r"\bhf_[A-Za-z0-9]{16,}|\bgh[pousr]_[A-Za-z0-9]{20,}|\bsk-[A-Za-z0-9_-]{20,}|\bAKIA[0-9A-Z]{16}\b"
    r"|\bwandb_v1_[A-Za-z0-9_-]{20,}|\bgithub_pat_[A-Za-z0-9_]{30,}|\bAIza[A-Za-z0-9_-]{35}|\bGOCSPX-[A-Za-z0-9_-]{20,}"
    r"|\bnpm_[A-Za-z0-9]{36}|\bxapp-\d-[A-Za-z0-9-]{20,}|\bhvs\.[A-Za-z0-9_-]{20,}|\bdop_v1_[a-f0-9]{64}"
    r"|\bdapi[a-f0-9]{32}|\bdckr_pat_[A-Za-z0-9_-]{20,}|\bnvapi-[A-Za-z0-9_-]{40,}|\bATATT3[A-Za-z0-9_=-]{50,}"
    r"|\bshp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}|\b[A-Za-z0-9]{14}\.atlasv1\.[A-Za-z0-9_-]{60,}"
    r"|\bya29\.[A-Za-z0-9_-]{30,}|\bglsa_[A-Za-z0-9]{32}_[a-f0-9]{8}|\bgsk_[A-Za-z0-9]{40,}|\br8_[A-Za-z0-9]{30,}"
    r"|\bpplx-[A-Za-z0-9]{40,}|\bxai-[A-Za-z0-9]{60,}|\blin_api_[A-Za-z0-9]{30,}|\bPMAK-[a-f0-9]{24}-[a-f0-9]{30,}"
    r"|\bdp\.pt\.[A-Za-z0-9]{40,}|\bAGE-SECRET-KEY-1[A-Z0-9]{50,}|\bNRAK-[A-Z0-9]{27}|\bsntrys_[A-Za-z0-9+/=_-]{40,}"
    r"|\bfigd_[A-Za-z0-9_-]{40,}|\bntn_[A-Za-z0-9]{40,}|\bsq0atp-[A-Za-z0-9_-]{22}"
    # A scheme has few letters: without a bound a long run of words and dashes would be searched again from each.
    r"|\b[a-zA-Z][a-zA-Z0-9+.-]{0,30}://(?:[^/\s:@]{0,200}:(?:[^/\s]{1,200}|[^\s@]{1,200})|[^/\s:@]{16,200})@"
    # As AWS's own tools and files write it: 40 characters that only their name tells from others.
    r"|(?i:aws_?secret_?key|secret[ _-]?access[ _-]?key)[\\\"'`]{0,3}\s{0,4}(?:[:=]>?|>|\s)\s{0,4}[\\\"'`]{0,3}"
    r"(?P<aws>[A-Za-z0-9/+]{40})(?![A-Za-z0-9/+=])"
    r"|[?&;](?:token|access_token|api_key|password|passwd|pwd|key|sig|signature|X-Amz-Signature|X-Amz-Credential|X-Amz-Security-Token)=[^&\s]{8,}"
)
