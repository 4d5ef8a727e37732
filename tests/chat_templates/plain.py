"""Shapes that name the speakers in words."""

PLAIN = {
    "falcon-instruct": """\
{% for message in messages %}
{% if not loop.first %}{{ '\\n' }}{% endif %}
{% if message['role'] == 'system' %}{{ 'System: ' }}
{%- elif message['role'] == 'user' %}{{ 'User: ' }}
{%- elif message['role'] == 'assistant' %}{{ 'Falcon: ' }}{% endif %}
{{ message['content'] | trim }}{% endfor %}
{% if add_generation_prompt %}{{ '\\n' + 'Falcon:' }}{% endif %}""",
    "falcon-tiiuae": (
        "{% for message in messages %}{% if not loop.first %}{{ '\\n' }}{% endif %}"
        "{% if message['role'] == 'user' %}{{ 'User: ' + message['content'] | trim"
        " | replace('\\r\\n', '\\n') | replace('\\n\\n', '\\n') }}"
        "{% elif message['role'] == 'assistant' %}{{ 'Assistant: ' + message['content'] | trim }}"
        "{% else %}{{ message['content'] }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '\\n\\nAssistant:' }}{% endif %}"
    ),
    "falcon-11b": (
        "{% for message in messages %}{% if message['role'] == 'system' %}"
        "{{ message['content'] + '\\n' }}{% else %}{{ message['role'] | capitalize }}: "
        "{{ message['content'] }}{{ eos_token if message['role'] == 'assistant' }}\n{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
    ),
    "vicuna": """\
{%- if messages[0]['role'] == 'system' -%}
{%- set system = messages[0]['content'] -%}{%- set rest = messages[1:] -%}
{%- else -%}
{%- set system = 'A chat between a curious user and an assistant.' -%}{%- set rest = messages -%}
{%- endif -%}
{{- bos_token + system -}}
{%- for message in rest -%}
{%- if message['role'] == 'user' -%}{{ ' USER: ' + message['content'].strip() }}
{%- else -%}{{ ' ASSISTANT: ' + message['content'].strip() + eos_token }}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ ' ASSISTANT:' }}{%- endif -%}
""",
    "alpaca": """\
{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] + '\\n\\n' }}{% endif %}
{% for message in messages %}
{% if message['role'] == 'user' %}
### Instruction:
{{ message['content'] | trim }}

{% elif message['role'] == 'assistant' %}
### Response:
{{ message['content'] | trim }}{{ eos_token }}

{% endif %}
{% endfor %}
{% if add_generation_prompt %}
### Response:
{% endif %}
""",
    "guanaco": (
        "{% for message in messages %}{{ {'user': '### Human: ', 'assistant': '### Assistant: ',"
        " 'system': ''}[message.role] ~ message.content ~ '\\n' }}{% endfor %}"
        "{{ '### Assistant:' if add_generation_prompt }}"
    ),
    "open-assistant": (
        "{% for message in messages %}{% if message.role == 'user' %}<|prompter|>"
        "{{ message.content }}{{ eos_token }}{% elif message.role == 'assistant' %}<|assistant|>"
        "{{ message.content }}{{ eos_token }}{% else %}<|system|>{{ message.content }}"
        "{{ eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>"
        "{% endif %}"
    ),
    "blenderbot": (
        "{% for message in messages %}{% if message['role'] == 'user' %}{{ ' ' }}{% endif %}"
        "{{ message['content'] }}{% if not loop.last %}{{ '  ' }}{% endif %}{% endfor %}"
        "{{ eos_token }}"
    ),
    "gpt2": "{% for message in messages %}{{ message.content }}{{ eos_token }}{% endfor %}",
    "no-speakers-joined": (
        "{{ messages | map(attribute='content') | join('\\n') }}"
        "{{ '\\n' if add_generation_prompt }}"
    ),
    "named-speakers": (
        "{% for m in messages %}{{ m.name if m.name is defined else m.role | title }}: "
        "{{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}Falcon:{% endif %}"
    ),
    "grouped-by-role": """\
{% for role, group in messages | groupby('role') %}
{{ role | upper }} ({{ group | length }})
{% for m in group %}{{ loop.index }}. {{ m.content | truncate(20) }}
{% endfor %}
{% endfor %}""",
}
