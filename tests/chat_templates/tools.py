"""Shapes that also know tools, documents and dates, and use more of the language."""

TOOLS = {
    "qwen": """\
{%- if tools %}
    {{- '<|im_start|>system\\n# Tools\\n' }}
    {%- for tool in tools %}{{- "\\n" }}{{- tool | tojson }}{%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string \
and not message.content.startswith('<tool_response>') %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == "user" or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning = '' %}
        {%- if message.reasoning_content is defined and message.reasoning_content is not none %}
            {%- set reasoning = message.reasoning_content %}
        {%- endif %}
        {{- '<|im_start|>' + message.role + '\\n' + reasoning + message.content }}
        {%- if message.tool_calls %}
            {%- for call in message.tool_calls %}{{- call.function.name }}{%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>' }}{%- endif %}
{%- endif %}""",
    "llama-3.1": """\
{{- bos_token }}
{%- if custom_tools is defined %}{%- set tools = custom_tools %}{%- endif %}
{%- if not date_string is defined %}{%- set date_string = strftime_now("%Y") %}{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if builtin_tools is defined or tools is not none %}{{- "Environment: ipython\\n" }}{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" }}{{- system_message }}{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
        {{- message['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}""",
    "command-r": """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
{%- set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}
{%- else -%}
{%- set loop_messages = messages %}{% set system_message = false %}
{%- endif -%}
{% if system_message != false %}
{{ '<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>' + system_message + '<|END_OF_TURN_TOKEN|>' }}
{% endif %}
{%- for message in loop_messages %}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
{%- endif %}
{%- set content = message['content'] %}
{%- if message['role'] == 'user' %}
{{- '<|START_OF_TURN_TOKEN|><|USER_TOKEN|>' + content.strip() + '<|END_OF_TURN_TOKEN|>' }}
{%- elif message['role'] == 'assistant' %}
{{- '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' + content.strip() + '<|END_OF_TURN_TOKEN|>' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}""",
    "mistral-v3": """\
{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}{%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace() %}
{%- set ns.index = 0 %}
{%- for message in loop_messages %}
    {%- if not (message.role == "tool" or message.tool_calls is defined) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("After the optional system message, roles must alternate") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == user_messages[-1]) %}
            {{- tools|tojson }}
        {%- endif %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"] | trim + eos_token }}
    {%- endif %}
{%- endfor %}""",
    "granite": """\
{%- if messages[0]['role'] == 'system' %}
{%- set system_message = messages[0]['content'] %}{%- set loop_messages = messages[1:] %}
{%- else %}
{%- set system_message = "Knowledge cutoff: April 2024." %}
{%- if tools and documents %}{%- set system_message = system_message + " Tools." %}{%- endif %}
{%- set loop_messages = messages %}
{%- endif %}
{{- '<|start_of_role|>system<|end_of_role|>' + system_message + '<|end_of_text|>\\n' }}
{%- for message in loop_messages %}
{{- '<|start_of_role|>' + message['role'] + '<|end_of_role|>' + message['content'] }}
{{- '<|end_of_text|>\\n' }}
{%- if loop.last and add_generation_prompt %}
{{- '<|start_of_role|>assistant' }}
{%- if controls %}{{- ' ' + controls | tojson() }}{%- endif %}
{{- '<|end_of_role|>' }}
{%- endif %}
{%- endfor %}""",
    "hermes": """\
{%- macro json_to_python_type(json_spec) %}
{%- set basic = {"string": "str", "number": "float"} %}
{%- if basic[json_spec] is defined %}{{- basic[json_spec] }}{%- else %}{{- "Any" }}{%- endif %}
{%- endmacro %}
{{- bos_token }}{{- '<|im_start|>system\\n' + json_to_python_type("string") + ' ' }}
{{- json_to_python_type("falcon") + '<|im_end|>\\n' }}
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}""",
    "as-json": """\
{{ messages | tojson }}
{{ messages | tojson(indent=2, ensure_ascii=true, sort_keys=true) }}
{{ messages[0] | tojson(separators=(',', ':')) }}
{{ {'b': 1.5, 'a': [none, true]} | tojson(indent=4) }}""",
    "dictionaries": """\
{% set seen = dict(user=1, other='x') %}{% set zeros = dict.fromkeys(['a', 'b'], 0) %}
{{ seen.user }}{{ zeros | dictsort }}{{ dict.items is defined }}{{ seen.items() | list }}
{% set counts = namespace(total=0) %}
{% for message in messages %}{% set counts.total = counts.total + message.content | length %}\
{% endfor %}
{{ counts.total }} {{ messages[-1]['content'] }}""",
    "filters": """\
{% for message in messages if message.content %}
{{ message.content | indent(2) | wordcount }} {{ message.content | escape }} \
{{ message.content | reverse }} {{ message.content.split() | first }} {{ loop.cycle('a', 'b') }} \
{{ message.content[:3] }} {{ message.content | default('none') }} {{ message.missing | default(7) }}
{%- endfor %}
{% filter upper %}{{ messages[-1].content }}{% endfilter %}""",
    "recursive-loop": """\
{% for m in [messages] recursive %}{% if m is mapping %}{{ m.role }}>{{ m.content }};\
{% else %}{{ loop(m) }}{% endif %}{% endfor %}""",
    "private-names": """\
{% set ns = namespace(_hidden=1) %}{{ messages[0].content }}""",
    "unsafe": "{{ messages.__class__.__mro__ }}{{ messages[0].content }}",
    "changes-messages": "{{ messages.append(messages[0]) }}{{ messages[0].content }}",
    "undefined-deeper": "{{ messages[0].missing.deeper }}{{ messages[0].content }}",
    "all-tokens": """\
{{ bos_token }}|{{ eos_token }}|{{ pad_token }}|{{ unk_token }}|{{ sep_token }}|{{ eot_token }}|\
{{ additional_special_tokens }}|{{ messages[-1].content }}""",
}
