"""Chat templates written in the manner of the families' own, rendered by `transformers`."""

import json
import pathlib

import tokenizers
import transformers

TEMPLATES = {
    # Trimmed blocks, a loop's own variables, the begin token.
    "plain": """{{ bos_token }}
{%- for message in messages %}
    {%- if loop.first and message.role != 'system' %}
[system]You are helpful.{{ eos_token }}
    {%- endif %}
[{{ message['role'] }}]{{ message['content'] | trim }}{{ eos_token if not loop.last or message.role == 'assistant' }}
{%- endfor %}
{%- if add_generation_prompt %}

[assistant]
{% endif %}
""",
    # As ChatML with tools: Python's JSON, string methods, arguments that are text or an object.
    "tools": """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
    {{- "# Tools\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set content = message.content or '' %}
        {%- set thought = '' %}
        {%- if message.reasoning_content is defined and message.reasoning_content is not none %}
            {%- set thought = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>' + message.role }}
        {%- if loop.index0 > ns.last_query_index and thought %}{{- '\\n<think>' + thought.strip('\\n') + '</think>' }}{%- endif %}
        {{- '\\n' + content }}
        {%- for call in message.tool_calls or [] %}
            {%- set call = call.function if call.function else call %}
            {{- '\\n<tool_call>\\n{"name": "' + call.name + '", "arguments": ' }}
            {%- if call.arguments is string %}{{- call.arguments }}{%- else %}{{- call.arguments | tojson }}{%- endif %}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}
""",
    # Refusals, slices, filters with arguments, indented JSON.
    "strict": """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if (message["role"] == "user") != (loop.index0 % 2 == 0) %}
        {{- raise_exception("After the optional system message, roles must alternate user/assistant") }}
    {%- endif %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == user_messages[-1]) %}
            {{- "[AVAILABLE_TOOLS] [" }}
            {%- for tool in tools %}
                {%- set tool = tool.function %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, val in tool.items() if key != "return" %}
                    {%- if val is string %}{{- '"' + key + '": "' + val + '"' }}{%- else %}{{- '"' + key + '": ' + val|tojson }}{%- endif %}
                    {%- if not loop.last %}{{- ", " }}{%- endif %}
                {%- endfor %}
                {{- "}}" }}{%- if not loop.last %}{{- ", " }}{%- else %}{{- "]" }}{%- endif %}
            {%- endfor %}
            {{- "[/AVAILABLE_TOOLS]" }}
        {%- endif %}
        {%- if loop.last and system_message is defined %}{{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}{{- "[INST] " + message["content"] + "[/INST]" }}{%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- else %}
        {{- raise_exception("Only user and assistant roles are supported, got " ~ message["role"] ~ "!") }}
    {%- endif %}
{%- endfor %}
{%- if tools %}{{ "\\n" ~ tools | tojson(indent=4) }}{%- endif %}
""",
    # Contents in parts, macros, conversions, joins, defaults, training marks.
    "parts": """{%- macro text_of(content) -%}
    {%- if content is string %}{{ content }}{%- elif content is iterable %}
        {%- for part in content %}{%- if part.type == 'text' %}{{ part.text }}{%- elif part['type'] == 'image' %}<image>{%- endif %}{%- endfor %}
    {%- endif %}
{%- endmacro -%}
{%- set date = date_string | default("26 Jul 2024") -%}
Today: {{ date }}; {{ messages | map(attribute='role') | unique | join(', ') | upper }}; {{ (messages | length) // 2 }} {{ 7 / 2 }} {{ 3.0 }} {{ true }} {{ none }}
{% for message in messages %}
{%- if message.role == 'assistant' -%}
{% generation %}{{ message.role|capitalize }}: {{ text_of(message.content) }}{% endgeneration %}

{% else -%}
{{ message.role|title }}: {{ text_of(message.content).replace('  ', ' ') }}
{% endif -%}
{% endfor -%}
{{ ['a', 'b'] | join('-') ~ {'k': [1, 2.5, none, true, 'é<']} | tojson }}
""",
}

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather's \"state\" <now>",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}, "days": {"type": "integer", "default": 1}}, "required": ["place"]},
    },
}
TALK = [
    {"role": "system", "content": "Be brief, naïve."},
    {"role": "user", "content": "  Who owns the mill?  "},
    {"role": "assistant", "content": "<think>\nhm\n</think>\n\nThe miller. "},
    {"role": "user", "content": "And the river?"},
]
CALLS = [
    {"role": "user", "content": "Weather in Zürich?"},
    {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"place": "Zürich", "days": 2}}}]},
    {"role": "tool", "content": "{\"sky\": \"blue\"}"},
    {"role": "tool", "content": "warm"},
]
PARTS = [
    {"role": "user", "content": [{"type": "text", "text": "What is  this?"}, {"type": "image"}]},
    {"role": "assistant", "content": "A mill."},
    {"role": "user", "content": "Thanks!"},
]
CONVERSATIONS = {
    "talk": {"messages": TALK},
    "question": {"messages": TALK[1:2], "chat_template_kwargs": {"enable_thinking": False, "date_string": "1 Jan 2026"}},
    "calls": {"messages": CALLS, "tools": [WEATHER]},
    "tools": {"messages": TALK[:2], "tools": [WEATHER, WEATHER]},
    "disorder": {"messages": [TALK[1], TALK[3]]},
    "parts": {"messages": PARTS},
}


def write(golden: pathlib.Path) -> None:
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizers.Tokenizer(tokenizers.models.BPE()), bos_token="<s>", eos_token="</s>")
    cases = []
    for name, template in TEMPLATES.items():
        for conversation_name, conversation in CONVERSATIONS.items():
            for ask in [False, True]:
                case = dict(name=f"{name}, {conversation_name}, {ask}", template=name, conversation=json.dumps(conversation, ensure_ascii=False), ask=ask)
                try:
                    case["rendered"] = tokenizer.apply_chat_template(
                        conversation["messages"],
                        tools=conversation.get("tools"),
                        chat_template=template,
                        add_generation_prompt=ask,
                        tokenize=False,
                        **conversation.get("chat_template_kwargs", {}),
                    )
                except Exception as error:
                    case["refused"] = type(error).__name__ + ": " + str(error)
                cases.append(case)
    rendered = sum("rendered" in case for case in cases)
    print(f"chat: {rendered} rendered, {len(cases) - rendered} refused")
    (golden / "chat.json").write_text(json.dumps(dict(templates=TEMPLATES, cases=cases), ensure_ascii=False, indent=1) + "\n")
